"""Shared code of the checks. A check is a function that gets a `trial.Trial`, and raises
`trial.Failed` if something does not hold."""
import re

from trial import Failed, Skipped, last_line

CHECKS = {}  # name: (function, seconds, what must hold, group); checks of one group run side by side


def add(name, function, seconds, holds, group=None):
    CHECKS[name] = function, seconds, holds, group


def check(seconds, holds, group=None):
    """The decorator of a check: its time limit in seconds, and what must hold."""
    def decorate(function):
        add(function.__name__, function, seconds, holds, group)
        return function
    return decorate


def action(name, holds, *args, ranks=2, seconds=60, group=None):
    """A check that is an action of the worker `gpu_checks`, whose ranks check their own results."""
    run = both if ranks == 2 else alone
    add(name, lambda t: run(t, t.bin / "gpu_checks", *args), seconds, f"{holds}, {'two ranks' if ranks == 2 else 'one rank'}", group)


def need(holds, why):
    if not holds:
        raise Failed(why)


def need_gpu(t):
    need(t.cpu or t.machine.gpu, "no GPU")


def gpu_only(t):
    """For checks that --cpu can't run."""
    need_gpu(t)
    if not t.machine.gpu:
        raise Skipped("needs a GPU")


def count(output, words, wanted):
    need(output.count(words) == wanted, f"{words!r}: {output.count(words)} times, expected {wanted}")
    return [line for line in output.splitlines() if words in line][-1]


def number(words, output):
    found = re.findall(rf"{words} *(-?[\d.]+)", output)
    need(found, f"no {words!r} in the output")
    return float(found[-1])


def alone(t, *program):
    """One rank under the launcher, checked only by its exit code."""
    t.say(last_line(t.one(*program)))


def both(t, *program, words=None, env=None):
    """Two ranks on one GPU; with `words`, both must print them."""
    need_gpu(t)
    output = t.two(*program, env=env)
    t.say(count(output, words, 2) if words else last_line(output))
