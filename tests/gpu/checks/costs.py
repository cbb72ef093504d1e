"""Waits, snapshots, the loader, and the comparison of collectives: measurements."""
import tempfile

from trial import last_line

from .base import action, check, need_gpu

action("hidden_sync", "no part of a training loop waits for the GPU", "hidden_sync", ranks=1)
action("hidden_sync_2", "no part of a training loop waits for the GPU", "hidden_sync")


def in_memory(t, name):
    """An action with snapshots in a folder in memory."""
    need_gpu(t)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        output = t.one(t.bin / "gpu_checks", name, folder)
    t.say(last_line(output))


@check(60, "a snapshot has the values of its step, although training continues")
def snapshot_race(t):
    in_memory(t, "snapshot_race")


@check(60, "a snapshot of 2 GB: how long the loop is blocked, and GB/s")
def snapshot_speed(t):
    in_memory(t, "snapshot_speed")


action("loader_overlap", "what the loader adds to a step", "loader_overlap", ranks=1)
action("compare_1", "what the comparison of collectives costs", "compare", ranks=1)
action("compare_2", "what the comparison of collectives costs", "compare")
