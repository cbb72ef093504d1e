"""The seed job from command to exit: ours (already built, release) against Python's DDP under torchrun, in one run.

    python3 tests/bench/seed_job.py [--rounds 5]

Prints medians and their ratio, the launcher's own peak memory, and the time of `cargo ddp --help`.
"""
import statistics, subprocess, tempfile, time
from pathlib import Path

from common import HERE, RANKS, launcher, python_env, arguments, seed_project, torchrun

EPOCHS, SAVE_EVERY, BATCH = 50, 10, 32


def seconds(command, **options):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    return time.perf_counter() - start


def main():
    rounds = arguments().rounds
    program = launcher()
    project, env = seed_project()
    run = [program, "ddp", "run", "--release", "--nproc", str(RANKS), "--"]

    with tempfile.TemporaryDirectory() as folder:

        def run_ours(n):
            args = ["--total-epochs", str(EPOCHS), "--save-every", str(SAVE_EVERY), "--batch-size", str(BATCH)]
            return seconds(run + args + ["--snapshots", f"{folder}/ours-{n}"], cwd=project, env=env)

        def run_python(n):
            return seconds(torchrun(HERE / "seed_torch.py", f"{folder}/snapshot-{n}.pt", EPOCHS), env=python_env())

        run_python("warm"), run_ours("warm")  # Python's byte code, and both sides' files in memory
        ours, python = [], []
        for n in range(rounds):
            python.append(run_python(n))
            ours.append(run_ours(n))

        job = subprocess.Popen(run + ["--total-epochs", "100000", "--snapshots", f"{folder}/memory"], cwd=project, env=env,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in job.stdout:
            if "epoch  20" in line:
                break
        own = [job.pid]
        for _ in range(2):
            own.append(Path(f"/proc/{own[-1]}/task/{own[-1]}/children").read_text().split()[0])
        status = [Path(f"/proc/{pid}/status").read_text() for pid in own]
        peak_mb = sum(int(text.split("VmHWM:")[1].split()[0]) / 1000 for text in status)
        job.terminate(), job.stdout.read(), job.wait()

    help_ms = 1000 * statistics.median(seconds([program, "ddp", "--help"]) for _ in range(20))
    o, p = statistics.median(ours), statistics.median(python)
    print(f"seed job ({EPOCHS} epochs, {RANKS} ranks, Gloo), command to exit, median of {rounds} (min to max):")
    print(f"  cargo ddp run  {o:6.2f} s  ({min(ours):.2f} to {max(ours):.2f})")
    print(f"  torchrun       {p:6.2f} s  ({min(python):.2f} to {max(python):.2f})")
    print(f"  ratio          {p / o:6.2f}    (wanted: at least 4)")
    print(f"launcher's own peak memory (its processes)    {peak_mb:.1f} MB  (wanted: below 15)")
    print(f"cargo ddp --help             {help_ms:.1f} ms  (wanted: below 50)")


main()
