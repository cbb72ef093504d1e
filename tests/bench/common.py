"""Shared code of the benchmarks: where both sides' programs are, and their environment."""
import argparse, os, shutil, statistics, subprocess, sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or REPO / "target")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cargo-ddp"
SITE = CACHE / "libtorch-2.13.0-cuda" / "site"
RANKS = 2


def arguments(rounds=5, **options):
    """The command line: --rounds, and `options` (name=settings of argparse)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=rounds)
    for name, settings in options.items():
        parser.add_argument(f"--{name}", **settings)
    if not (SITE / "torch").exists():
        sys.exit(f"no Python torch in {SITE}: run `cargo ddp setup --cuda` first")
    return parser.parse_args()


def clean_env(**extra):
    # Python may store its byte code; otherwise each import of torch compiles it again.
    dropped = ("OMP_NUM_THREADS", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    return env | extra


def python_env(**extra):
    return clean_env(PYTHONPATH=str(SITE), **extra)


def torchrun(script, *args):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}"]
    return run + [str(script), *map(str, args)]


def built(package, binary):
    """A release build of one of this repository's programs."""
    subprocess.run(["cargo", "build", "-q", "--release", "-p", package, "--bin", binary], cwd=REPO, check=True)
    return TARGET / "release" / binary


def launcher():
    return built("cargo-ddp", "cargo-ddp")


def seed_project(cuda=False):
    """A project that `cargo ddp new` made, built: its folder and the environment to run it in. With `cuda` it has the same
    libtorch as Python's side; otherwise the one that `cargo ddp setup` chooses for this machine."""
    project = TARGET / "bench/seed"
    shutil.rmtree(project, ignore_errors=True)
    subprocess.run([launcher(), "ddp", "new", project], check=True, capture_output=True)
    shutil.copy(REPO / "Cargo.lock", project)
    # Reuses the workspace's own builds of dependencies.
    env = clean_env(CARGO_TARGET_DIR=str(TARGET / "bench/cuda" if cuda else TARGET))
    if cuda:
        subprocess.run([launcher(), "ddp", "setup", "--cuda"], cwd=project, env=env, check=True, capture_output=True)
    check = [launcher(), "ddp", "run", "--release", "--nproc", "1", "--", "--help"]
    subprocess.run(check, cwd=project, env=env, check=True, stdout=subprocess.DEVNULL)
    return project, env


def output(command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **options).stdout


def spread(values, form="{:8.2f}"):
    low, middle, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle}  ({low.strip()} to {high.strip()})"
