"""Training steps per second of three models with Gloo: ours against Python's DDP, in one run.

    python3 tests/bench/ddp_steps.py [--rounds 5]

2 ranks with one thread each; the same first weights and batches, so the same losses. Beside the steps of Ddp it times the
same steps without communication, on both ranks at once and on one alone.
"""
import statistics, subprocess, sys, tempfile
from collections import defaultdict

from common import HERE, RANKS, REPO, clean_env, launcher, output, python_env, arguments, spread, torchrun

WANTED = {"linear": "at least 1.2", "mlp": "at least 1", "transformer": "at least 1"}
WAYS = {"ddp": "with Ddp", "both": "without, both", "one": "without, one"}


def read(text, rates):
    """Reads the lines of rates; returns each model's line with the number of parameters and the first losses."""
    models = {}
    for line in text.splitlines():
        name, _, rest = line.removeprefix("[rank 0] ").partition(" ")
        if rest.startswith("parameters="):
            parameters, losses = rest.removeprefix("parameters=").split(" losses=")
            models[name] = int(parameters), [float(loss) for loss in losses.strip("[]").split(",")]
        elif rest.startswith("ddp="):
            for pair in rest.split():
                way, rate = pair.split("=")
                rates[name, way].append(float(rate))
    return models


def compare(ours, torch):
    for name, (parameters, losses) in torch.items():
        my_parameters, my_losses = ours[name]
        assert my_parameters == parameters, f"{name}: {my_parameters} / {parameters} parameters"
        worst = max(abs(a - b) / abs(b) for a, b in zip(my_losses, losses, strict=True))
        assert worst < 1e-5, f"{name}: losses differ by up to {worst:.1e}: {my_losses} / {losses}"


def main():
    rounds = arguments().rounds
    program, env = launcher(), clean_env(OMP_NUM_THREADS="1")
    run = [program, "ddp", "run", "--release", "-p", "ddp-tests", "--bin", "bench_steps", "--nproc", str(RANKS), "--"]
    ours, torch = defaultdict(list), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, HERE / "steps_torch.py", "--make", folder], env=python_env(), check=True)
        for _ in range(rounds):
            theirs = read(output(torchrun(HERE / "steps_torch.py", folder), env=python_env(OMP_NUM_THREADS="1")), torch)
            compare(read(output(run + [folder], env=env, cwd=REPO), ours), theirs)

    print(f"steps per second, {RANKS} ranks, Gloo, 1 thread per rank, median of {rounds} (min to max):")
    for name, wanted in WANTED.items():
        print(f"{name}, {theirs[name][0]} parameters, the same losses on both sides")
        for way, title in WAYS.items():
            mine, other = ours[name, way], torch[name, way]
            ratio = statistics.median(mine) / statistics.median(other)
            note = f"(wanted: {wanted})" if way == "ddp" else ""
            print(f"  {title:14}  ours {spread(mine):28}  torch {spread(other):28}  ratio {ratio:.2f}  {note}")


main()
