"""Our steps per second next to Python's: `ratios.py OURS PYTHON`, two files with the output of `gpu_steps` and `steps.py`. The
launcher's `[rank 0]` may precede a line; lines without JSON are skipped. The exit code is 1 when losses differ."""
import json, statistics, sys


def parse(lines):
    """The measurements by model, variant and number of ranks; several of one kind become one, with all of their rounds."""
    found = {}
    for line in lines:
        try:
            entry = json.loads(line[line.index("{"):])
            key = (entry["model"], entry["variant"], entry["ranks"])
        except (ValueError, KeyError):
            continue
        merged = found.setdefault(key, {"steps_per_s": [], "host_ms": [], "peak_bytes": 0, "losses": []})
        merged["steps_per_s"] += entry["steps_per_s"]
        merged["host_ms"].append(entry["host_ms"])
        merged["peak_bytes"] = max(merged["peak_bytes"], entry["peak_bytes"])
        merged["losses"].append(entry["losses"])
        merged["parameters"], merged["device"] = entry["parameters"], entry["device"]
    return found


def pairs(ours_lines, python_lines):
    """Our measurements, each with Python's of the same model and number of ranks, or None. Variants of ours are paired with
    Python's `none`, and Python's with our `none`."""
    found, python = [], parse(python_lines)
    for (model, variant, ranks), ours in parse(ours_lines).items():
        found.append(((model, variant, ranks), ours, python.get((model, "none", ranks))))
        for (other, python_variant, python_ranks), entry in python.items():
            if variant == "none" != python_variant and (other, python_ranks) == (model, ranks):
                found.append(((model, f"none; Python {python_variant}", ranks), ours, entry))
    return found


def tolerance(model, device):
    """How far losses may differ: on a GPU, cuDNN chooses its algorithms by time, and TF32 has 10 bits of mantissa."""
    if model.endswith("_bf16"):
        return 2e-2
    return 1e-2 if model.endswith("_tf32") and device == "cuda" else 1e-5


def distance(ours, python):
    """The largest relative difference of two runs' losses; infinite for a loss that is not a number."""
    def differences():
        for run in ours["losses"]:
            for other in python["losses"]:
                if len(run) != len(other):
                    yield float("inf")
                for a, b in zip(run, other):
                    difference = float("nan") if a is None or b is None else abs(a - b) / max(abs(b), 1e-9)
                    yield difference if difference == difference else float("inf")

    return max(differences(), default=float("inf"))


def disagreements(ours_lines, python_lines):
    """One sentence for each measurement of ours whose losses or parameters are not Python's, or that Python lacks."""
    compared = pairs(ours_lines, python_lines)
    found = [] if compared else ["there are no measurements of ours"]
    for (model, variant, ranks), ours, python in compared:
        what = f"{model} ({variant}, {ranks} rank{'s' * (ranks > 1)})"
        if python is None:
            found.append(f"{what}: Python's line is missing")
        elif ours["parameters"] != python["parameters"]:
            found.append(f"{what}: {ours['parameters']} parameters, and Python has {python['parameters']}")
        elif (far := distance(ours, python)) > (limit := tolerance(model, ours["device"])):
            found.append(f"{what}: losses differ by {far:.1e}, more than {limit:.0e}: {ours['losses'][0]}, Python {python['losses'][0]}")
    return found


def rate(entry):
    low, middle, high = min(entry["steps_per_s"]), statistics.median(entry["steps_per_s"]), max(entry["steps_per_s"])
    digits = 0 if middle >= 1000 else 1 if middle >= 100 else 2
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def table(ours_lines, python_lines):
    """A table in Markdown, and whether the losses agree."""
    lines = [
        "| model | variant | ranks | ours, steps/s | Python | ratio | host ms, ours | Python | ratio | peak MiB, ours | Python | losses differ by |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (model, variant, ranks), ours, python in pairs(ours_lines, python_lines):
        if python is None:
            continue
        ours_rate, python_rate = (statistics.median(entry["steps_per_s"]) for entry in (ours, python))
        ours_host, python_host = (statistics.median(entry["host_ms"]) for entry in (ours, python))
        ours_peak, python_peak = (f"{entry['peak_bytes'] / 2**20:.1f}" for entry in (ours, python))
        cells = [
            model, variant, ranks, rate(ours), rate(python), f"{ours_rate / python_rate:.2f}",
            f"{ours_host:.3f}", f"{python_host:.3f}", f"{ours_host / python_host:.2f}", ours_peak, python_peak,
            f"{distance(ours, python):.1e}",
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    wrong = disagreements(ours_lines, python_lines)
    return lines + [""] + (wrong or ["The losses agree."])


def main():
    ours, python = (open(path).read().splitlines() for path in sys.argv[1:3])
    print("\n".join(table(ours, python)))
    sys.exit(bool(disagreements(ours, python)))


if __name__ == "__main__":
    main()
