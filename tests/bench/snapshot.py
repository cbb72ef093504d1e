"""Snapshots of about 1 GB of model and AdamW state: ours (release) against torch.save and torch.load, in one run.

    python3 tests/bench/snapshot.py [--rounds 3] [--folder DIR]

Prints medians and ratios. Both sides run in processes that take turns, each of which saves and loads three times; the
first save of a process is counted by itself, as ours then gets the memory for its copies. Ours waits for the disk by
default; it is compared with torch.save in both ways.
"""
import json, os, statistics, subprocess, sys, tempfile

from common import TARGET, arguments, built, clean_env, python_env

TIMES = 3

PYTHON = '''
import json, os, sys, time, torch
model = torch.nn.Sequential(*(torch.nn.Linear(2896, 2896) for _ in range(10)))
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
sum(p.mean() for p in model.parameters()).backward()
optimizer.step()
path = sys.argv[1]
times = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    with open(path, "wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
        blocked = time.perf_counter() - start
        os.fsync(file.fileno())
    written = time.perf_counter() - start
    start = time.perf_counter()
    state = torch.load(path)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    load = time.perf_counter() - start
    del state
    times.append(dict(blocked=blocked, written=written, load=load))
# At the end: the optimizer keeps the mapped tensors, and writing to the file again would end the process.
start = time.perf_counter()
state = torch.load(path, mmap=True)
model.load_state_dict(state["model"])
optimizer.load_state_dict(state["optimizer"])
load_mmap = time.perf_counter() - start
for one in times:
    print(json.dumps(dict(one, load_mmap=load_mmap)), flush=True)
'''


def times(command, env):
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]


def main():
    args = arguments(3, folder=dict(default=TARGET, help="where to write; by default target/"))
    program = built("ddp-tests", "bench_snapshot")
    ours, python = [], []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for _ in range(args.rounds):
            python.append(times([sys.executable, "-c", PYTHON, f"{folder}/snapshot.pt", str(TIMES)], python_env()))
            os.remove(f"{folder}/snapshot.pt")
            ours.append(times([str(program), f"{folder}/snapshots", str(TIMES)], clean_env()))

    def median(runs, key):
        return statistics.median(time[key] for run in runs for time in run if time[key] is not None)

    save, synced = median(python, "blocked"), median(python, "written")
    print(f"1 GB of state (medians of {args.rounds} processes, {TIMES} times each):")
    print(f"  torch.save {save:.3f} s, and with fsync {synced:.3f} s")
    for name, key in [("first save of a process", "first"), ("later ones", "blocked")]:
        blocked = median(ours, key)
        print(f"  ours, the loop is blocked ({name}): {blocked:.3f} s, 1/{save / blocked:.1f} of torch.save (wanted: at most 1/10)")
    handed_over, written = median(ours, "handed_over"), median(ours, "written")
    print(f"  ours, whole write without sync: {handed_over:.3f} s, {save / handed_over:.2f}x torch.save (wanted: at least 1)")
    print(f"  ours, whole write with sync:    {written:.3f} s, {synced / written:.2f}x torch.save and fsync")
    load, mapped, ours_load = median(python, "load"), median(python, "load_mmap"), median(ours, "load")
    print(f"  torch.load and load_state_dict {load:.3f} s, with mmap=True {mapped:.3f} s (which keeps the file mapped)")
    print(f"  ours, checksums verified, loaded: {ours_load:.3f} s, {load / ours_load:.2f}x (wanted: at least 2)")


main()
