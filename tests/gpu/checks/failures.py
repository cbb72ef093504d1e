"""Runs that are killed and resumed, and runs that fail: exit codes and reports."""
import functools, json, re, time

from .base import action, add, check, gpu_only, need


def weights(output):
    return sorted(re.findall(r"rank \d: weights [0-9a-f]+", output))


def resumed(t, start):
    """An undisturbed run and one that is killed at step 137 must end with the same weights."""
    undisturbed = weights(start(t.bin / "gpu_checks", "resume", t.fresh("-undisturbed"), "200", "0"))
    output = start(t.bin / "gpu_checks", "resume", t.fresh("-killed"), "200", "137", flags=["--max-restarts", "1"])
    need("resumed at" in output, "nothing was resumed")
    need(undisturbed and undisturbed == weights(output), f"other weights: {undisturbed}, {weights(output)}")
    t.say(f"the same: {undisturbed[0]}")


@check(60, "kill -9 and restart: bit-identical weights, with dropout, one rank", "resume")
def resume_1(t):
    resumed(t, t.one)


@check(60, "kill -9 and restart: bit-identical weights, with dropout, two ranks", "resume")
def resume_2(t):
    resumed(t, t.launch_two)


action("seeded", "random numbers of a GPU that the snapshot does not have: the same after each resume", "seeded", ranks=1, group="resume")


def failing(t, how, code, words, env=None, step=50):
    """Rank 1 of 2 fails; the launcher's exit code and its report must show it."""
    report, begin = t.machine.work / f"{t.name}.json", time.monotonic()
    t.launch_two(t.bin / "gpu_checks", "fail", how, flags=["--report", report], code=None, env=env)
    seconds = time.monotonic() - begin
    cause = json.loads(report.read_text()).get("cause") or {}
    t.log.write(report.read_text())
    message = " ".join(str(cause.get("message") or "").split())
    t.say(f"exit code {t.code} after {seconds:.0f} s; rank {cause.get('rank')}, step {cause.get('step')}: "
          f"{message[:100] or 'no message'}")
    need(re.search(words, message), f"the reason is missing: {t.last}")
    if code is None:
        need(t.code != 0, "the job succeeded")
    else:
        right = (t.code, cause.get("rank"), cause.get("step")) == (code, 1, step)
        need(right, f"expected exit code {code}, rank 1, step {step}: {t.last}")


# How rank 1 fails, the launcher's exit code, and words of the reason.
for how, holds, code, words in (
    ("error", "Err on rank 1", 1, "the planned error"),
    ("metrics", "Err on rank 1 with metrics that were not exchanged, and a loader", 1, "the planned error"),
    ("panic", "panic on rank 1", 101, "the planned panic"),
    ("exit", "exit(7) on rank 1", 7, ""),
    ("kill", "kill -9 of rank 1", 137, ""),
    ("memory", "out of memory on rank 1", 1, "out of memory|allocate"),
):
    run = functools.partial(failing, how=how, code=code, words=words)
    add(f"fail_{how}", run, 60, f"{holds}: exit code {code}, rank 1 is named", "failures")


@check(60, "device-side assert on rank 1: exit code 1, rank 1 is named", "failures")
def fail_assert(t):
    gpu_only(t)
    failing(t, "assert", 1, "device-side assert")


@check(90, "rank 1 sleeps, DDP_TIMEOUT=20: the job ends, with a reason", "failures")
def fail_sleep(t):
    failing(t, "sleep", None, "[Tt]ime|Watchdog", env={"DDP_TIMEOUT": "20"})


@check(60, "rank 1 fails with metrics, a loader, a snapshot and a subgroup open: rank 1 is named", "failures")
def fail_open(t):
    report = t.machine.work / f"{t.name}.json"
    t.launch_two(t.bin / "worker", "teardown", "fail", "1", flags=["--report", report], code=1)
    cause = json.loads(report.read_text()).get("cause") or {}
    t.say(f"rank {cause.get('rank')}: {cause.get('message')}")
    need(cause.get("rank") == 1 and "told to fail" in str(cause.get("message")), f"another cause: {t.last}")


@check(60, "a run that ends well with everything open: exit code 0", "failures")
def end_open(t):
    t.launch_two(t.bin / "worker", "teardown", "succeed", t.fresh())


@check(60, "rank 0 waits forever when rank 1 fails: a second SIGTERM ends it early", "failures")
def fail_stuck(t):
    begin = time.monotonic()
    t.launch_two(t.bin / "worker", "teardown", "stuck", "1", flags=["--grace", "800"], code=1)
    t.say(f"ended after {time.monotonic() - begin:.0f} s")
