"""The launcher itself: ours (release) against torchrun, in one run.

    python3 tests/bench/launcher.py [--rounds 5]

How long it takes to run programs that do nothing, to the first step of the seed job and from a kill to the first step
after the restart; its memory and processor time while 32 workers sleep; 60 MB of workers' output.
"""
import contextlib, json, os, signal, statistics, subprocess, sys, tempfile, threading, time
from pathlib import Path

from common import HERE, RANKS, arguments, clean_env, launcher, python_env, seed_project, spread

TICKS = os.sysconf("SC_CLK_TCK")
WRITER = "import sys\nline = b'x' * 99 + b'\\n'\nfor _ in range(300_000): sys.stdout.buffer.write(line)\n"
IDLE_SECONDS = 10
# A restart takes seconds. Under torchrun, the new workers sometimes wait for each other forever.
RESTART_LIMIT = 60


def ours(n, *command):
    return [launcher_path, "ddp", "launch", "-q", "--nproc", str(n), "--", *command]


def theirs(n, *command):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n}", "--no-python"]
    return run + list(command)


def seconds(command, out=subprocess.DEVNULL, **options):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=out, stderr=subprocess.DEVNULL, **options)
    return time.perf_counter() - start


def processes(pid, depth):
    """The launcher's own processes: ours has three, torchrun has one."""
    pids = [pid]
    for _ in range(depth):
        pids += [int(p) for p in Path(f"/proc/{pids[-1]}/task/{pids[-1]}/children").read_text().split()]
    return pids


def resident_and_cpu(pids):
    """(MB, seconds). Shared pages count once (PSS): our processes are forks of one program."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    stat = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    resident = sum(int(text.split("Pss:")[1].split()[0]) for text in rollups) * 1024 / 1e6
    return resident, sum(int(fields[11]) + int(fields[12]) for fields in stat) / TICKS


def idle(command, depth, env, folder):
    """(resident MB, share of a core while idle) with 32 workers asleep."""
    job = subprocess.Popen(command, env=env, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(4)
    pids = processes(job.pid, depth)
    _, before = resident_and_cpu(pids)
    time.sleep(IDLE_SECONDS)
    resident, after = resident_and_cpu(pids)
    job.terminate(), job.wait()
    return resident, (after - before) / IDLE_SECONDS


class SeedJob:
    """A seed job. Waits for its first steps, and can kill one of its workers."""

    def __init__(self, command, **options):
        self.start = time.perf_counter()
        self.job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options)

    def first_step(self, is_first, is_later):
        """Seconds until the first step, and until some more steps are done."""
        first = next(time.perf_counter() - self.start for line in self.job.stdout if is_first(line))
        for line in self.job.stdout:
            if is_later(line):
                return first
        raise SystemExit("the seed job ended early")

    def restart(self, victim, is_first):
        """Seconds from a kill to the first step after it; None if there is none."""
        start = time.perf_counter()
        os.kill(victim, signal.SIGKILL)
        timer = threading.Timer(RESTART_LIMIT, self.job.terminate)
        timer.start()
        found = next((time.perf_counter() - start for line in self.job.stdout if is_first(line)), None)
        timer.cancel()
        return found

    def close(self):
        self.job.terminate()
        self.job.stdout.read(), self.job.wait()


def main():
    global launcher_path
    rounds = arguments(5).rounds
    launcher_path = str(launcher())
    project, env = seed_project()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, n in (("2 workers", 2), ("32 workers", 32), ("256 workers", 256)):
            mine = [seconds(ours(n, "/bin/true"), env=clean_env(), cwd=folder) for _ in range(3 * rounds)]
            other = [seconds(theirs(n, "/bin/true"), env=python_env(), cwd=folder) for _ in range(rounds)] if n < 256 else []
            results[f"launch -- /bin/true, {title}"] = mine, other

        script = Path(folder, "writer.py")
        script.write_text(WRITER)
        mine, other = [], []
        for _ in range(rounds):
            with open(f"{folder}/out", "wb") as out:
                mine.append(seconds(ours(2, sys.executable, str(script)), out=out, env=clean_env(), cwd=folder))
            with open(f"{folder}/out", "wb") as out:
                other.append(seconds(theirs(2, sys.executable, str(script)), out=out, env=python_env(), cwd=folder))
        results["60 MB of output (torchrun: untagged)"] = mine, other

        mine, other, again, their_again = [], [], [], []
        for n in range(rounds):
            first, second = restart_ours(project, env, folder, n)
            mine.append(first), again.append(second)
            first, second = restart_theirs(folder, n)
            other.append(first)
            their_again += [second] if second else []
        results["seed job, to its first step"] = mine, other
        results["kill -9 to the first step after it"] = again, their_again

        print(f"seconds, median of {rounds} (min to max):")
        for title, (mine, other) in results.items():
            theirs_text = f"torchrun {spread(other, '{:.3f}')}  ratio {statistics.median(other) / statistics.median(mine):.1f}" if other else ""
            print(f"  {title:40} ours {spread(mine, '{:.3f}'):26} {theirs_text}")
        print(f"  of torchrun's {rounds} restarts {len(their_again)} worked")
        sleep = ("sleep", "60")
        resident, cpu = idle(ours(32, *sleep), 2, clean_env(), folder)
        their_resident, their_cpu = idle(theirs(32, *sleep), 0, python_env(), folder)
        print(f"while 32 workers sleep: ours {resident:.1f} MB (all processes) and {100 * cpu:.2f} % of a core, "
              f"torchrun {their_resident:.1f} MB and {100 * their_cpu:.2f} %")


def restart_ours(project, env, folder, n):
    run = [launcher_path, "ddp", "run", "--release", "--json", "--nproc", str(RANKS), "--", "--total-epochs", "100000"]
    job = SeedJob(run + ["--save-every", "1", "--snapshots", f"{folder}/{n}"], cwd=project, env=env)
    pids, attempt = [], 0
    first = again = killed = None
    # The job always ends, because its snapshots are in a folder that is removed.
    with contextlib.closing(job):
        for line in job.job.stdout:
            event = json.loads(line)
            if event["event"] == "launched":
                pids, attempt = event["pids"], event["attempt"]
            elif event["event"] == "step" and first is None:
                first = time.perf_counter() - job.start
            elif event["event"] == "snapshot_saved" and killed is None:
                killed = time.perf_counter()
                os.kill(pids[1], signal.SIGKILL)
            elif event["event"] == "step" and attempt == 1:
                again = time.perf_counter() - killed
                break
    return first, again


def restart_theirs(folder, n):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}", "--max-restarts=1"]
    job = SeedJob(run + [str(HERE / "seed_torch.py"), f"{folder}/{n}.pt", "100000"], env=python_env())
    is_first = lambda line: "first step of rank" in line
    with contextlib.closing(job):
        first = job.first_step(is_first, lambda line: line.startswith("epoch  10"))
        children = Path(f"/proc/{job.job.pid}/task/{job.job.pid}/children").read_text().split()
        victim = next(int(pid) for pid in children if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes())
        return first, job.restart(victim, is_first)


main()
