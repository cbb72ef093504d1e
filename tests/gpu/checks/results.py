"""Correct results: DDP, collectives, the workers of the test suite."""
import re

from .base import action, add, both, check, need

action("train_1", "DDP's losses are those of one model on the CPU", "train", ranks=1)
action("collectives_1", "right collectives", "collectives", ranks=1)
action("collectives_2", "right collectives", "collectives", group="right")
action("train_2", "DDP's losses are those of one model on the CPU", "train", group="right")
action("gloo_cuda", "Gloo with CUDA tensors: right sums and DDP steps", "gloo_cuda", group="right")


@check(60, "the suite's worker `flat`: memory does not grow over 10,000 steps, one rank", "right")
def flat(t):
    warm, end = map(int, re.search(r"resident \d+ (\d+) (\d+)", t.one(t.bin / "worker", "flat")).groups())
    t.say(f"{warm} KiB after 2,000 steps, {end} KiB after 10,000")
    need(end - warm <= 4096, f"memory grew: {t.last}")


def suite(name, *runs):
    """A worker of the suite on two ranks: the arguments of each run, and the words that both ranks print."""
    def run(t):
        for args, words in runs:
            both(t, t.bin / "worker", name, *args, words=words)
    add(f"suite_{name}", run, 60, f"the suite's worker `{name}`, two ranks", "suite")


suite("collectives", (["all"], "all collectives are right"), (["mistakes"], "all mistakes are errors"))
suite("reducer", ([], "the reducer is right"), (["dropped"], None))
suite("join", ([], "joining is right"))
suite("hooks", ([], "hooks are right"))
suite("batch_norm", ([], "SyncBatchNorm is right"))
suite("zero", ([], "sharding is right"))
suite("trainer", (["check"], "the trainer is right"))


@check(60, "the suite's worker `metrics`, two ranks under the launcher", "suite")
def suite_metrics(t):
    t.launch_two(t.bin / "worker", "metrics", "all")
