#!/usr/bin/env bash
# Records a run on this machine as docs/images/run.svg and run.png: `bash tests/recording/record.sh`.
# Needs tmux, asciinema 2 and rsvg-convert (Debian: tmux asciinema librsvg2-bin fonts-dejavu-core), svg-term (npm:
# svg-term-cli) and cargo-ddp (`cargo install --path cargo-ddp`) in PATH. The first time it builds libtorch's bindings,
# which takes some minutes and is not shown. RECORDING_TARGET is a folder where they are built already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export REPO=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=${RECORDING_TARGET:-$REPO/target/recording}
export LIBTORCH=${LIBTORCH:-$(readlink -f "$REPO/.ddp/libtorch")}

# Once without a recording, so that everything but the project itself is built.
(cd "$work" && cargo ddp new digits --template vision && cp "$REPO/Cargo.lock" digits && cd digits && cargo ddp build) 2>/dev/null
rm -rf "$work/digits" "$CARGO_TARGET_DIR/ddp"

socket=$work/tmux
tmux -S "$socket" new-session -d -x 86 -y 24 "cd '$work' && asciinema rec -q -c 'bash $here/session.sh' '$work/run.cast'; tmux -S '$socket' wait-for -S done"
tmux -S "$socket" wait-for done
python3 "$here/tidy.py" "$work" "$CARGO_TARGET_DIR" <"$work/run.cast" >"$work/tidy.cast"
images=$REPO/docs/images
svg-term --in "$work/tidy.cast" --out "$images/run.svg" --window --no-cursor --padding 12
# A still of the moment after the restart.
svg-term --in "$work/tidy.cast" --out "$work/still.svg" --window --no-cursor --padding 12 --at "$(cat "$work/still")"
rsvg-convert --zoom 1.2 "$work/still.svg" -o "$images/run.png"
if command -v pngquant >/dev/null; then pngquant --force --ext .png 64 "$images/run.png"; fi
ls -l "$images"/run.*
