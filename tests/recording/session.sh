#!/usr/bin/env bash
# The recorded session: a project is created and trained, a worker is killed meanwhile, and the curves are drawn.
set -u
say() {
  printf '\e[1;32m%s $\e[0m ' "$1"
  sleep 0.6
  for ((i = 0; i < ${#2}; i++)); do printf '%s' "${2:i:1}" && sleep 0.03; done
  sleep 0.3 && echo
}

say '~' 'cargo ddp new digits --template vision && cd digits'
cargo ddp new digits --template vision && cd digits
cp "$REPO/Cargo.lock" .

say '~/digits' 'cargo ddp run --nproc 2'
kill_rank_1() {
  until cat runs/1/attempt-0/rank-0.stdout.log 2>/dev/null | grep -q 'epoch   6 '; do sleep 0.02; done
  sleep 0.2
  kill -9 "$(cargo ddp ps --json | python3 -c 'import json, os, sys
print(next(job["workers"][1] for job in json.load(sys.stdin) if job["folder"] == os.getcwd()))')"
}
kill_rank_1 &
cargo ddp run --nproc 2

say '~/digits' 'cargo ddp plot'
cargo ddp plot
say '~/digits' ''
sleep 2
