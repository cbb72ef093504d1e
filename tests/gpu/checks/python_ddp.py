"""Steps per second, next to Python's DDP on the same GPU."""
import ratios

from trial import Skipped

from .base import both, check, need


def small(t, *models):
    return ["--small" if t.cpu else "--seconds=0.5", *models]


def python(t):
    return {"PYTHONPATH": str(t.machine.into), "PYTHONUNBUFFERED": "1"}


@check(90, "steps per second, one rank")
def steps_1(t):
    t.one(t.bin / "gpu_steps", *small(t))


@check(100, "steps per second of Python's DDP, one rank")
def python_1(t):
    t.launch(["--nproc", "1"], [t.python, t.bundle / "steps.py", *small(t)], env=python(t))


@check(90, "steps per second, two ranks")
def steps_2(t):
    both(t, t.bin / "gpu_steps", *small(t, *TWO_RANKS))


@check(100, "steps per second of Python's DDP, two ranks")
def python_2(t):
    both(t, t.python, t.bundle / "steps.py", *small(t, *TWO_RANKS), env=python(t))


# Without the variants that only one rank runs.
TWO_RANKS = ["linear", "mlp:none", "resnet50_bf16", "gpt_bf16:none"]


def measured(machine):
    """The lines that both sides have printed."""
    def lines(name):
        path = machine.work / "log" / name
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    return [lines(f"{side}_1") + lines(f"{side}_2") for side in ("steps", "python")]


@check(10, "both sides have trained the same models: their losses agree")
def losses(t):
    ours, theirs = measured(t.machine)
    if not (ours and theirs):
        raise Skipped("nothing was measured")
    wrong = ratios.disagreements(ours, theirs)
    need(not wrong, "; ".join(wrong))
    t.say("all agree")


def tables(machine):
    """Ours next to Python's, in Markdown."""
    ours, theirs = measured(machine)
    return ratios.table(ours, theirs) if ours and theirs else []
