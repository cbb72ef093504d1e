"""Samples per second through the loader: ours against torch's DataLoader at its best setting, in one run.

    python3 tests/bench/loader.py [--rounds 5]

One process with all cores, batches of 256 rows and of 64 images. Both sides run the same settings in each round; the
setting with the best median counts.
"""
import statistics, sys
from collections import defaultdict

from common import HERE, built, clean_env, output, python_env, arguments, spread

SECONDS = 1.0  # per setting
# (what is compared, ours, torch's, wanted)
COMPARED = [
    ("1M x 20 rows, TensorDataset", "rows", "rows", "at least 20"),
    ("  the same, torch with a BatchSampler as sampler", "rows", "rows-by-batch", "no target"),
    ("3x224x224 images", "images", "images", "at least 1.5"),
]


def rates(text, into):
    """Reads the lines `NAME SETTING RATE`; returns the sample that shows that both sides make the same images."""
    *lines, sample = text.splitlines()
    for line in lines:
        name, setting, rate = line.split()
        into[name][setting].append(float(rate))
    return sample


def best(settings):
    return max(settings.items(), key=lambda item: statistics.median(item[1]))


def main():
    rounds = arguments().rounds
    program = built("ddp-tests", "bench_loader")
    ours, torch = defaultdict(lambda: defaultdict(list)), defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        theirs = rates(output([sys.executable, HERE / "loader_torch.py", str(SECONDS)], env=python_env()), torch)
        mine = rates(output([program, str(SECONDS)], env=clean_env()), ours)
        assert mine == theirs, f"the images differ: {mine} / {theirs}"

    print(f"samples per second, median of {rounds} (min to max):")
    for title, mine, theirs, wanted in COMPARED:
        (our_setting, our_rates), (torch_setting, torch_rates) = best(ours[mine]), best(torch[theirs])
        print(title)
        print(f"    ours   {spread(our_rates, '{:9.0f}')}  {our_setting}")
        print(f"    torch  {spread(torch_rates, '{:9.0f}')}  {torch_setting}")
        print(f"    ratio  {statistics.median(our_rates) / statistics.median(torch_rates):9.2f}  (wanted: {wanted})")
    print("all settings, medians:")
    for side, names in (("ours", ours), ("torch", torch)):
        for name, settings in names.items():
            listed = "  ".join(f"{setting}: {statistics.median(values):.0f}" for setting, values in settings.items())
            print(f"  {side:5} {name}: {listed}")


main()
