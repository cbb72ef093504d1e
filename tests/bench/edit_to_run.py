"""From saving src/main.rs to the first step of 2 workers: what a user waits for after each edit (debug build).

    python3 tests/bench/edit_to_run.py [PROJECT] [--rounds 5]

PROJECT is one made by `cargo ddp new` and built; without it, one is made in target/bench (which takes some minutes).
"""
import argparse, json, os, subprocess, tempfile, time
from pathlib import Path

from common import REPO, clean_env, spread


def once(launcher, project, env, snapshots):
    """(seconds to the end of the build, to the first step)"""
    os.utime(project / "src/main.rs")
    start = time.perf_counter()
    run = [launcher, "ddp", "run", "--json", "--nproc", "2", "--", "--total-epochs", "1", "--snapshots", snapshots]
    job = subprocess.Popen(run, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    built = first = None
    for line in job.stdout:
        event = json.loads(line)["event"]
        built = built or (event == "launched" and time.perf_counter() - start) or None
        first = first or (event == "step" and time.perf_counter() - start) or None
    assert job.wait() == 0
    return built, first


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "cargo-ddp"], cwd=REPO, check=True)
    launcher = str(REPO / "target/release/cargo-ddp")
    env, project = clean_env(), args.project and args.project.resolve()
    if project is None:
        project = REPO / "target/bench/edited"
        if not project.exists():
            subprocess.run([launcher, "ddp", "new", project], env=env, check=True)
    with tempfile.TemporaryDirectory() as folder:
        once(launcher, project, env, f"{folder}/first")
        times = [once(launcher, project, env, f"{folder}/{n}") for n in range(args.rounds)]
    built, first = zip(*times)
    print(f"after an edit of src/main.rs, debug build, median of {args.rounds} (min to max), seconds:")
    print(f"  cargo: compile and link   {spread(built, '{:.2f}')}")
    print(f"  start to the first step   {spread([f - b for b, f in times], '{:.2f}')}")
    print(f"  together                  {spread(first, '{:.2f}')}")


main()
