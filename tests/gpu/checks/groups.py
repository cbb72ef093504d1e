"""The life of groups and operations, and ranks that do not agree."""
import re, time

from .base import both, check, gpu_only, need, need_gpu


@check(60, "eager connections, split groups, a high-priority stream, batch_send_recv, two ranks", "groups")
def groups(t):
    both(t, t.bin / "gpu_checks", "groups")


@check(45, "operations dropped without waiting overwrite nothing", "groups")
def dropped(t):
    both(t, t.bin / "gpu_checks", "dropped")


@check(45, "a subgroup dropped before its result is read: right sums", "groups")
def subgroup(t):
    both(t, t.bin / "gpu_checks", "subgroup")


@check(45, "a rank that leaves first: right sums on the other", "groups")
def leave(t):
    both(t, t.bin / "gpu_checks", "leave")


@check(45, "a rank that joins its first collective 8 s late: right sums", "groups")
def late(t):
    both(t, t.bin / "gpu_checks", "late", "8", env={"DDP_TIMEOUT": "20"})


@check(60, "a rank that never joins, DDP_TIMEOUT=15: the other one ends, with a reason", "groups")
def absent(t):
    need_gpu(t)
    begin = time.monotonic()
    output = t.launch_two(t.bin / "gpu_checks", "late", "600", env={"DDP_TIMEOUT": "15"}, code=1)
    said = re.findall(r"error: .*timed out.*", output)
    t.say(f"after {time.monotonic() - begin:.0f} s: {said[-1] if said else 'no reason'}")
    need(said, "no reason is given")


@check(40, "shapes differ: an error on both ranks", "differ")
def differ_shape(t):
    both(t, t.bin / "gpu_checks", "differ", "shape")


@check(40, "a CPU tensor and a CUDA tensor: an error on both ranks", "differ")
def differ_device(t):
    gpu_only(t)
    both(t, t.bin / "gpu_checks", "differ", "device")


@check(40, "strides differ: an error on both ranks", "differ")
def differ_strides(t):
    both(t, t.bin / "gpu_checks", "differ", "strides")


@check(40, "without NCCL_MULTI_RANK_GPU_ENABLE, NCCL's reason \"Duplicate GPU\" is readable", "differ")
def duplicate(t):
    gpu_only(t)
    output = t.two(t.bin / "gpu_checks", "probe", code=None,
                   env={"NCCL_MULTI_RANK_GPU_ENABLE": "0", "NCCL_DEBUG": None, "DDP_BACKTRACE": None})
    need(any(t.codes), "it did not fail")
    said = re.search(r".*(duplicate GPU|same GPU|multiple ranks).*", output, re.I)
    need(said, "the reason is not there")
    t.say(said[0].strip())
