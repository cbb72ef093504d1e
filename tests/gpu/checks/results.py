"""Right results: DDP, collectives, the workers of the test suite."""
import re

from .base import alone, both, check, need, need_gpu


@check(60, "DDP's losses are those of one model on the CPU, one rank")
def train_1(t):
    alone(t, t.bin / "gpu_checks", "train")


@check(60, "collectives, one rank")
def collectives_1(t):
    alone(t, t.bin / "gpu_checks", "collectives")


@check(90, "collectives, two NCCL ranks on one GPU")
def collectives_2(t):
    both(t, t.bin / "gpu_checks", "collectives")


@check(60, "the suite's worker `collectives`, two ranks", "suite")
def suite_collectives(t):
    both(t, t.bin / "collectives", "all", words="are right")
    both(t, t.bin / "collectives", "mistakes")


@check(60, "DDP's losses are those of one model on the CPU, two ranks", "right")
def train_2(t):
    both(t, t.bin / "gpu_checks", "train")


@check(60, "the suite's worker `reducer`, two ranks", "suite")
def reducer(t):
    both(t, t.bin / "reducer", words="the reducer is right")
    both(t, t.bin / "reducer", "dropped")


@check(60, "the suite's worker `join`, two ranks", "suite")
def join(t):
    both(t, t.bin / "join", words="joining is right")


@check(60, "the suite's worker `hooks`, two ranks", "suite")
def hooks(t):
    both(t, t.bin / "hooks", words="hooks are right")


@check(60, "the suite's worker `batch_norm` (SyncBatchNorm), two ranks", "suite")
def batch_norm(t):
    both(t, t.bin / "batch_norm", words="SyncBatchNorm is right")


@check(60, "the suite's worker `zero` (ZeroRedundancy), two ranks", "suite")
def zero(t):
    both(t, t.bin / "zero", words="sharding is right")


@check(60, "the suite's worker `trainer`, two ranks", "suite")
def trainer(t):
    both(t, t.bin / "trainer", "check", words="the trainer is right")


@check(60, "the suite's worker `metrics`, two ranks under the launcher", "suite")
def metrics(t):
    need_gpu(t)
    t.launch_two(t.bin / "metrics", "all")


@check(60, "the suite's worker `flat`: memory does not grow over 10,000 steps, one rank", "right")
def flat(t):
    warm, end = map(int, re.search(r"resident \d+ (\d+) (\d+)", t.one(t.bin / "flat")).groups())
    t.say(f"{warm} KiB after 2,000 steps, {end} KiB after 10,000")
    need(end - warm <= 4096, f"memory grew: {t.last}")


@check(60, "Gloo with CUDA tensors: right sums and DDP steps, two ranks", "right")
def gloo_cuda(t):
    both(t, t.bin / "gpu_checks", "gloo_cuda")
