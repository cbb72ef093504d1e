"""From saving src/main.rs to the first step of 2 workers: the wait after each edit (debug build).

    python3 tests/bench/edit_to_run.py [PROJECT] [--rounds 5]

PROJECT is one made by `cargo ddp new` and built; without it, one is made in target/bench (which takes some minutes). Linkers
and settings of the profile are tried in turns; a linker is tried if it is in PATH. Also measures `cargo ddp new`.
"""
import argparse, json, os, shutil, subprocess, tempfile, time
from pathlib import Path

from common import REPO, clean_env, spread

# Calls the linker like rustc, except for the choice in LD, and writes how long it took.
WRAPPER = """#!/bin/sh
start=$(date +%s%N)
cc "$@" ${LD:+-fuse-ld=$LD} || exit
echo $(($(date +%s%N) - start)) > "$LD_TOOK"
"""
VARIANTS = {
    "as the template is": {},
    "with mold": {"LD": "mold"},
    "with GNU ld": {"LD": "bfd"},
    'split-debuginfo = "unpacked"': {"CARGO_PROFILE_DEV_SPLIT_DEBUGINFO": "unpacked"},
    'debug = "line-tables-only"': {"CARGO_PROFILE_DEV_DEBUG": "line-tables-only"},
}


def once(launcher, project, env, snapshots):
    """Seconds: of the build, of the linker in it, from the build's end to the first step."""
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
    return built, int(Path(env["LD_TOOK"]).read_text()) / 1e9, first - built


def new(launcher, folder, template, rounds):
    times = []
    for n in range(rounds):
        start = time.perf_counter()
        subprocess.run([launcher, "ddp", "new", f"{folder}/{template}-{n}", "--template", template], env=clean_env(),
                       check=True, stderr=subprocess.DEVNULL)
        times.append(1000 * (time.perf_counter() - start))
    return times


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "cargo-ddp"], cwd=REPO, check=True)
    launcher = str(REPO / "target/release/cargo-ddp")
    project = args.project and args.project.resolve()
    if project is None:
        project = REPO / "target/bench/edited"
        if not project.exists():
            subprocess.run([launcher, "ddp", "new", project], env=clean_env(), check=True)
    with tempfile.TemporaryDirectory() as folder:
        for template in ("linear", "mingpt"):
            times = new(launcher, folder, template, 2 * args.rounds)
            print(f"`cargo ddp new --template {template}`, median of {len(times)} (min to max), ms: {spread(times, '{:.0f}')}")
        wrapper = Path(folder, "linker")
        wrapper.write_text(WRAPPER)
        wrapper.chmod(0o755)
        env = clean_env(CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=str(wrapper), LD_TOOK=f"{folder}/took")
        variants = {name: {**env, **change} for name, change in VARIANTS.items()
                    if "LD" not in change or shutil.which(f"ld.{change['LD']}")}
        times = {name: [] for name in variants}
        for number in range(args.rounds + 1):
            for name, variant in variants.items():
                taken = once(launcher, project, variant, f"{folder}/{name}-{number}")
                if number:    # the first round builds what the variant changes
                    times[name].append(taken)
    print(f"\nSeconds after an edit of src/main.rs, debug build, 2 workers, median of {args.rounds} (min to max):\n")
    print("| | cargo | of it the linker | from there to the first step | together |\n|---|---|---|---|---|")
    for name, taken in times.items():
        columns = [*zip(*taken), [built + first for built, _, first in taken]]
        print(f"| {name} | " + " | ".join(spread(column, "{:.2f}") for column in columns) + " |")


main()
