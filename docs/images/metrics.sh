#!/usr/bin/env bash
# Makes metrics.png: two runs of the example, with different learning rates; a worker of the second one is killed on its way.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
run() { cargo ddp run -p ddp-runtime --example metrics --nproc 2 --log-dir "$work/runs" -- "$@"; }
run 0.02 "$work/first" 30
run 0.1 "$work/second" 30 >"$work/out" 2>&1 &
until grep -q 'epoch  17 ' "$work/out"; do sleep 0.02; done
kill -9 "$(sed -n 's/.*rank 1 pid \([0-9]*\).*/\1/p' "$work/out")"
wait $!
cargo ddp plot 1 2 --log-dir "$work/runs" --metric train/loss --metric accuracy --smooth --output docs/images/metrics.png
