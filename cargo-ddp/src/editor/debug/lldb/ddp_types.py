"""Summaries of ddp-runtime's types: a rank, how far samplers and loaders are."""
from ddp_tensor import Unreadable

PROGRESS = ["ddp_runtime::snapshot::progress::Progress"]
RUN = "ddp_runtime::train::run::Run<"
GONE = "(uninitialized or moved out)"


def _member(value, *path):
    value = value.GetNonSyntheticValue()
    for name in path:
        value = value.GetChildMemberWithName(name).GetNonSyntheticValue()
    return value.GetValueAsUnsigned(0)


def context_summary(value, _dict):
    rank, size = _member(value, "world", "rank"), _member(value, "world", "world_size")
    return f"rank {rank} of {size}" if rank < size <= 1 << 20 else GONE


def world_summary(value, _dict):
    rank, size = _member(value, "rank"), _member(value, "world_size")
    return f"rank {rank} of {size}" if rank < size <= 1 << 20 else GONE


class Sampler:
    """A DistributedSampler or an EvalSampler."""

    def __init__(self, value):
        self.length, self.rank, self.size = (_member(value, name) for name in ("dataset_len", "rank", "num_replicas"))
        if not self.rank < self.size <= 1 << 20 or self.length >= 1 << 63:
            raise Unreadable(GONE.strip("()"))
        self.epoch = self.order = None
        if value.GetNonSyntheticValue().GetChildMemberWithName("shuffle").IsValid():
            self.epoch = _member(value, "epoch")
            self.order = f"shuffled with seed {_member(value, 'seed')}" if _member(value, "shuffle") else "in order"
            drop_last = _member(value, "drop_last")
            self.share = self.length // self.size if drop_last else -(-self.length // self.size)
        else:    # each sample is one rank's
            self.share = -(-max(0, self.length - self.rank) // self.size)

    def text(self, position=None):
        """With `position` (epoch, samples that all ranks together have seen of it), how far it is."""
        epoch, seen = self.epoch, None
        # Repeated samples count: up to one less than there are ranks.
        if position and position[1] <= self.length + self.size:
            epoch, seen = position
        start = "" if epoch is None else f"epoch {epoch}: "
        shares = f"{self.share} of {self.length} samples" if seen is None else \
                 f"at {min(seen, self.length)} of {self.length} samples, {self.share}"
        order = f", {self.order}" if self.order else ""
        return f"{start}{shares} for rank {self.rank} of {self.size}{order}"


def sampler_summary(value, _dict):
    try:
        sampler = Sampler(value)
    except Unreadable as why:
        return f"({why})"
    position = _progress_beside(value)
    # Of another epoch, it does not tell where this one is.
    return sampler.text(position if position and position[0] == sampler.epoch else None)


def _progress_beside(value):
    """A sampler does not count; the loop that uses it does: (epoch, samples) of the only Run or Progress in its frame."""
    found = []
    for variable in value.GetFrame().GetVariables(True, True, False, True):
        kind = variable.GetType()
        kind = kind.GetPointeeType() if kind.IsPointerType() else kind    # a reference
        name = kind.GetUnqualifiedType().GetName()
        if name in PROGRESS or name.startswith(RUN):
            at = ("course", "progress") if name.startswith(RUN) else ()
            found.append(tuple(_member(variable, *at, name) for name in ("epoch", "samples")))
    return found[0] if len(set(found)) == 1 else None


def loader_summary(value, _dict):
    at = ("position", "value", "value")    # in a Cell
    position = _member(value, *at, "epoch"), _member(value, *at, "samples")
    batch = _member(value, "batch_size")
    sampler = value.GetNonSyntheticValue().GetChildMemberWithName("sampler")
    if not 0 < batch < 1 << 63:
        return GONE
    if not sampler.GetNonSyntheticValue().GetChildMemberWithName("dataset_len").IsValid():    # the program's own
        return f"epoch {position[0]}: at {position[1]} samples of all ranks, batches of {batch}"
    try:
        return f"{Sampler(sampler).text(position)}, batches of {batch}"
    except Unreadable as why:
        return f"({why})"


def batches_summary(value, _dict):
    names = ("next", "batches", "batch_size", "samples", "num_replicas")
    count, batches, batch, samples, replicas = (_member(value, "cursor", name) for name in names)
    epoch = _member(value, "cursor", "start", "epoch")
    if not (count <= batches <= samples < 1 << 63 and 0 < batch < 1 << 63 and 0 < replicas <= 1 << 20):
        return GONE
    return f"epoch {epoch}: at batch {count} of {batches}, {min(count * batch, samples)} of this rank's {samples} samples"


def progress_summary(value, _dict):
    return _progress(value)


def _progress(value, *at):
    epoch, step, samples = (_member(value, *at, name) for name in ("epoch", "step", "samples"))
    if max(epoch, step, samples) >= 1 << 63:
        return GONE
    return f"epoch {epoch}, step {step}, {samples} samples of the epoch seen"


def run_summary(value, _dict):
    return _progress(value, "course", "progress")


def position_summary(value, _dict):
    return f"epoch {_member(value, 'epoch')}, {_member(value, 'samples')} samples of it given out"
