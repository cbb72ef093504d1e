"""From nothing to the first training step: a user's first project, and a second one; next to a new virtual environment for
Python's twin of the project.

    python3 tests/bench/second_project.py [--rounds 3] [--launcher PATH] [--first-rounds 1] [--compare] [--no-python]

libtorch, cargo's registry and pip's cache are filled before anything is measured. The cache for compiled dependencies is
empty. `--compare` also measures a first project with DDP_SHARED_BUILD=0: what a first project took before, and what every
project took. Needs 4 GB of disk, and 12 GB more for Python's side.
"""
import argparse, json, os, resource, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

from common import CACHE, HERE, RANKS, TARGET, clean_env, launcher, spread

TORCH = "torch==2.13.0"


def processor_seconds():
    """Processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(commands):
    """Seconds until a line of the last command is accepted, and seconds of processor time. `commands`: (words, folder,
    environment, accepts)."""
    start, used = time.perf_counter(), processor_seconds()
    first = None
    for words, folder, env, accepts in commands:
        job = subprocess.Popen(list(map(str, words)), cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in job.stdout:
            if first is None and accepts and accepts(line):
                first = time.perf_counter() - start
        if job.wait():
            sys.exit(f"{words} ended with {job.returncode}")
    assert first is not None, "the first step never came"
    return first, processor_seconds() - used


def ours(program, folder, name, env):
    is_step = lambda line: json.loads(line)["event"] == "step"
    train = [program, "ddp", "run", "--json", "--nproc", RANKS, "--", "--total-epochs", 1]
    return measure([([program, "ddp", "new", name], folder, env, None), (train, folder / name, env, is_step)])


def theirs(folder, name, env):
    venv = folder / name
    python = venv / "bin/python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", TORCH]
    train = [python, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}"]
    train += [HERE / "seed_torch.py", folder / "snapshot.pt", 1]
    taken = measure([
        ([sys.executable, "-m", "venv", venv], folder, env, None),
        (install, folder, env, None),
        (train, folder, env, lambda line: line.startswith("first step")),
    ])
    shutil.rmtree(venv)
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-rounds", type=int, default=1)
    parser.add_argument("--launcher", type=Path)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--no-python", action="store_true")
    args = parser.parse_args()
    program = (args.launcher or launcher()).resolve()
    libtorch = CACHE / "libtorch-2.13.0-cpu"
    if not libtorch.exists():
        sys.exit(f"no {libtorch}: run `cargo ddp setup --cpu` first")

    results = {}
    with tempfile.TemporaryDirectory(dir=TARGET) as folder:
        folder = Path(folder)
        # ccache would reuse the C++ objects of an earlier project.
        path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if "ccache" not in part)
        env = clean_env(PATH=path, CCACHE_DISABLE="1")
        for name in ("LIBTORCH", "DDP_LIBTORCH", "DDP_SHARED_BUILD", "CARGO_TARGET_DIR", "VIRTUAL_ENV"):
            env.pop(name, None)

        def fresh_cache(name):
            cache = folder / name / "cargo-ddp"
            cache.mkdir(parents=True)
            (cache / libtorch.name).symlink_to(libtorch.resolve())
            return env | {"XDG_CACHE_HOME": str(cache.parent)}

        if args.compare:
            off = fresh_cache("off") | {"DDP_SHARED_BUILD": "0"}
            results["first, DDP_SHARED_BUILD=0"] = [ours(program, folder, "before", off)]
            shutil.rmtree(folder / "before")
        results["first project"] = []
        for number in range(args.first_rounds):
            shared = fresh_cache(f"cache-{number}")
            results["first project"].append(ours(program, folder, f"first-{number}", shared))
        results["second project"] = [ours(program, folder, f"second-{number}", shared) for number in range(args.rounds)]
        if not args.no_python:
            theirs(folder, "warm", env)    # fills pip's cache
            results["venv, pip install, torchrun"] = [theirs(folder, f"venv-{number}", env) for number in range(args.rounds)]

    print(f"load {os.getloadavg()[0]:.1f} at the end; seconds to the first step, median (min to max), and of processor time:")
    for name, taken in results.items():
        seconds, used = zip(*taken)
        print(f"  {name:30} {spread(seconds, '{:.1f}'):28} {statistics.median(used):7.1f}   of {len(taken)}")
    first, second = (statistics.median(s for s, _ in results[name]) for name in ("first project", "second project"))
    print(f"  first / second: {first / second:.1f} (wanted: second below 5 s)")
    if not args.no_python:
        python = statistics.median(s for s, _ in results["venv, pip install, torchrun"])
        print(f"  Python / second: {python / second:.1f}")


main()
