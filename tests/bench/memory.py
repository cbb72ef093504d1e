"""Peak memory of the seed job's workers after 50 epochs: ours against Python's, in one run.

    python3 tests/bench/memory.py [--rounds 3] [--cuda]

Prints each rank's peak resident memory (VmHWM), and what of the memory at that time is the process's own (RssAnon): the
rest are pages of files, mostly libraries, which both ranks share.
"""
import re, statistics, subprocess, tempfile
from pathlib import Path

from common import HERE, RANKS, launcher, python_env, arguments, seed_project, spread, torchrun


def workers(launcher_pid, program):
    """The launcher's children that run `program`, in the order of ranks. (Our launcher has three processes.)"""
    def children_of(pid):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    children = children_of(launcher_pid)
    while len(children) == 1:
        children = children_of(children[0])
    ranks = {}
    for pid in children:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if program in Path(f"/proc/{pid}/cmdline").read_text():
            ranks.update((int(entry[5:]), pid) for entry in environment if entry.startswith(b"RANK="))
    return [ranks[rank] for rank in sorted(ranks)]


def after_50_epochs(command, program, **options):
    """(VmHWM, RssAnon) in MB, of each rank."""
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)
    for line in job.stdout:
        if re.search(r"\bepoch +51\b", line):
            break
    status = [Path(f"/proc/{pid}/status").read_text() for pid in workers(job.pid, program)]
    job.terminate(), job.stdout.read(), job.wait()
    assert len(status) == RANKS, f"{len(status)} workers of {program} found"
    return [[int(text.split(f"{name}:")[1].split()[0]) / 1000 for name in ("VmHWM", "RssAnon")] for text in status]


def main():
    args = arguments(3, cuda=dict(action="store_true", help="ours with the same libtorch as Python's, which has CUDA"))
    rounds, program = args.rounds, launcher()
    project, env = seed_project(args.cuda)
    ours, python = [], []
    with tempfile.TemporaryDirectory() as folder:
        run = [program, "ddp", "run", "--release", "--nproc", str(RANKS), "--", "--total-epochs", "100000", "--save-every", "10"]
        for n in range(rounds):
            python.append(after_50_epochs(torchrun(HERE / "seed_torch.py", f"{folder}/snapshot.pt", 100000), "seed_torch.py", env=python_env()))
            ours.append(after_50_epochs(run + ["--snapshots", f"{folder}/{n}"], "release/seed", cwd=project, env=env))

    print(f"seed job after 50 epochs, {RANKS} ranks, Gloo, MB, median of {rounds} (min to max):")
    medians = {}
    for side, results in (("ours", ours), ("torch", python)):
        for rank in range(RANKS):
            peak, own = ([result[rank][i] for result in results] for i in (0, 1))
            medians[side, rank] = statistics.median(peak), statistics.median(own)
            print(f"  {side:5} rank {rank}  peak {spread(peak, '{:.0f}')}  of its own {spread(own, '{:.0f}')}")
    for rank in range(RANKS):
        peak, own = (medians["ours", rank][i] / medians["torch", rank][i] for i in (0, 1))
        print(f"  ours / torch, rank {rank}: peak {peak:.2f}  (wanted: at most 0.5), of its own {own:.2f}")


main()
