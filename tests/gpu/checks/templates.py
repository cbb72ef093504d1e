"""The templates, as users run them."""
import re, time

from .base import check, need, need_gpu, number


def linear_is_right(t, output):
    line = re.findall(r".*w = .*", output)[-1]
    w1, w2, b = map(float, re.search(r"w = \[([-\d.]+), ([-\d.]+)\] .*b = ([-\d.]+)", line).groups())
    need(max(abs(w1 + 2), abs(w2 - 3.4), abs(b - 4.2)) < 0.01, f"wrong weights: {line}")
    t.say(line)


@check(40, "template linear, without the launcher: exit code 0, the right weights")
def linear_direct(t):
    need_gpu(t)
    linear_is_right(t, t.run(t.bin / "linear", "--snapshots", t.fresh(), cwd=t.bundle / "linear"))


@check(40, "template linear, under the launcher: exit code 0, the right weights")
def linear(t):
    linear_is_right(t, t.one(t.bin / "linear", "--snapshots", t.fresh(), cwd=t.bundle / "linear"))


@check(90, "template vision: accuracy above 80 % after 4 epochs", "templates")
def vision(t):
    output = t.one(t.bin / "vision", "--total-epochs", "4", "--snapshots", t.fresh(), cwd=t.bundle / "vision")
    accuracy = number("best accuracy", output)
    t.say(f"accuracy {accuracy} %")
    need(accuracy > 80, f"accuracy {accuracy} %")


def gpt(t, *flags):
    flags = ["--truncate", "0.3", "--max-epochs", "1", "--snapshots", t.fresh(), *flags]
    loss = number("test loss", t.one(t.bin / "mingpt", *flags, cwd=t.bundle / "mingpt"))
    t.say(f"test loss {loss}")
    need(loss < 2.6, f"test loss {loss}")


@check(90, "template mingpt, fp32: test loss below 2.6", "templates")
def mingpt(t):
    gpt(t)


@check(90, "template mingpt, bf16: test loss below 2.6", "templates")
def mingpt_bf16(t):
    gpt(t, "--use-amp")


@check(100, "ten short runs end with exit code 0")
def ten_runs(t):
    begin = time.monotonic()
    for i in range(10):
        t.one(t.bin / "linear", "--total-epochs", "1", "--snapshots", t.fresh(i), cwd=t.bundle / "linear")
    t.say(f"ten times exit code 0 in {time.monotonic() - begin:.1f} s")


@check(10, "none of the checks above warned")
def warnings(t):
    need_gpu(t)
    logs = ["nccl", "linear_direct", "linear", "vision", "mingpt", "mingpt_bf16", "ten_runs"]
    logs = [path for name in logs if (path := t.machine.work / "log" / name).exists()]
    pattern = re.compile(r"\[[WE][0-9 ]|WARN|[Ww]arning:|terminate called")  # c10's own lines begin with [W or [E
    found = [f"{path.name}: {line.strip()}" for path in logs
             for line in path.read_text(errors="replace").splitlines() if pattern.search(line)]
    for line in found:
        t.say(line)
    need(not found, f"{len(found)} warnings, such as {found[0] if found else ''}"[:300])
    t.say(f"none in {len(logs)} logs")
