"""The lifetime of groups and operations, and ranks whose calls differ."""
import re, time

from .base import action, both, check, gpu_only, need, need_gpu

action("groups", "eager connections, split groups, a high-priority stream, batch_send_recv", "groups", group="groups")
action("dropped", "operations dropped without waiting overwrite nothing", "dropped", group="groups")
action("subgroup", "a subgroup dropped before its result is read: right sums", "subgroup", group="groups")
action("leave", "a rank that leaves first: right sums on the other", "leave", group="groups")


@check(45, "a rank that joins its first collective 8 s late: right sums", "groups")
def late(t):
    both(t, t.bin / "gpu_checks", "late", "8", env={"DDP_TIMEOUT": "20"})


@check(60, "a rank that never joins, DDP_TIMEOUT=15: the other one ends, with a reason", "groups")
def absent(t):
    need_gpu(t)
    begin = time.monotonic()
    output = t.launch_two(t.bin / "gpu_checks", "late", "600", env={"DDP_TIMEOUT": "15"}, code=1)
    reason = re.findall(r"error: .*timed out.*", output)
    t.say(f"after {time.monotonic() - begin:.0f} s: {reason[-1] if reason else 'no reason'}")
    need(reason, "no reason is given")


action("differ_shape", "shapes differ: an error on both", "differ", "shape", group="differ")
action("differ_strides", "strides differ: an error on both", "differ", "strides", group="differ")


@check(40, "a CPU tensor and a CUDA tensor: an error on both ranks", "differ")
def differ_device(t):
    gpu_only(t)
    both(t, t.bin / "gpu_checks", "differ", "device")


@check(40, "without NCCL_MULTI_RANK_GPU_ENABLE, NCCL's reason \"Duplicate GPU\" is readable", "differ")
def duplicate(t):
    gpu_only(t)
    output = t.two(t.bin / "gpu_checks", "probe", code=None,
                   env={"NCCL_MULTI_RANK_GPU_ENABLE": "0", "NCCL_DEBUG": None, "DDP_BACKTRACE": None})
    need(any(t.codes), "it did not fail")
    reason = re.search(r".*(duplicate GPU|same GPU|multiple ranks).*", output, re.I)
    need(reason, "the reason is not there")
    t.say(reason[0].strip())
