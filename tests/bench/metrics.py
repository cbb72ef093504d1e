"""The cost of `metrics.log`: training steps per second of the seed job's model with and without it, in one run.

    python3 tests/bench/metrics.py [--dev]

2 ranks with one thread each on Gloo, in turns. Each step that is logged has a loss, a learning rate and its samples. --dev takes
the dev profile's build, in which our own code is several times slower.
"""
import argparse, statistics, tempfile

from common import RANKS, REPO, TARGET, clean_env, launcher, output, spread

STEPS = 2000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dev", action="store_true")
    dev = parser.parse_args().dev
    program = TARGET / "debug/cargo-ddp" if dev else launcher()
    run = [program, "ddp", "run", *([] if dev else ["--release"]), "-p", "ddp-tests", "--bin", "bench_metrics"]
    run += ["--nproc", str(RANKS), "--"]
    with tempfile.TemporaryDirectory() as folder:
        text = output(run + [folder, str(STEPS)], env=clean_env(OMP_NUM_THREADS="1"), cwd=REPO)
    rounds = [line.split("] ")[1] for line in text.splitlines() if "plain=" in line]
    rates = [dict(pair.split("=") for pair in line.split()) for line in rounds]
    plain, logged = ([float(rate[way]) for rate in rates] for way in ("plain", "logged"))
    print(f"steps per second, {RANKS} ranks, Gloo, Linear(20, 1), {len(rates)} rounds of {STEPS} steps (min to max):")
    print(f"  without metrics  {spread(plain, '{:8.0f}')}")
    print(f"  with metrics     {spread(logged, '{:8.0f}')}")
    ratios = [b / a for a, b in zip(plain, logged, strict=True)]
    print(f"  ratio            {statistics.median(ratios):8.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


main()
