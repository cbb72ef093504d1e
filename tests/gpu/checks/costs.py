"""Waits, snapshots, the loader, and the comparison of collectives: measurements."""
import tempfile

from trial import last_line

from .base import alone, both, check, need_gpu


@check(60, "no part of a training loop waits for the GPU, one rank")
def hidden_sync(t):
    alone(t, t.bin / "gpu_checks", "hidden_sync")


@check(60, "no part of a training loop waits for the GPU, two ranks")
def hidden_sync_2(t):
    both(t, t.bin / "gpu_checks", "hidden_sync")


def in_memory(t, action):
    """An action with snapshots in a folder in memory."""
    need_gpu(t)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        output = t.one(t.bin / "gpu_checks", action, folder)
    t.say(last_line(output))


@check(60, "a snapshot has the values of its step, although training continues")
def snapshot_race(t):
    in_memory(t, "snapshot_race")


@check(60, "a snapshot of 2 GB: how long the loop is blocked, and GB/s")
def snapshot_speed(t):
    in_memory(t, "snapshot_speed")


@check(60, "what the loader adds to a step")
def loader_overlap(t):
    alone(t, t.bin / "gpu_checks", "loader_overlap")


@check(40, "what the comparison of collectives costs, one rank")
def compare_1(t):
    alone(t, t.bin / "gpu_checks", "compare")


@check(40, "what the comparison of collectives costs, two ranks")
def compare_2(t):
    both(t, t.bin / "gpu_checks", "compare")
