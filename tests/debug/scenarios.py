#!/usr/bin/env python3
"""scenarios.py NAME PROJECT BINARY: what happens when a user debugs PROJECT (made by `cargo ddp new`, with a line marked
BREAK in its loop), through the debug adapter that DDP_TEST_ADAPTER names. The exit code is 0 if that is what should happen."""
import json, os, re, shutil, signal, socket, subprocess, sys, threading, time, traceback
from editor import TaskFailed
from formatters import positions, tensors
from group import console, group, ranks, rounds
from stage import ARGS, BINARY, LINE, NAME, PROJECT, SNAPSHOTS, SOURCE, ddp, editor, editors, finish, has, run


def check_variables(session, rank, nproc):
    """A String, a Vec, tensors and types of ddp-runtime, at the breakpoint."""
    frame = session.frames()[0]
    assert (frame["source"]["path"], frame["line"]) == (SOURCE, LINE), frame
    if session.editor.adapter.kind == "lldb-dap":    # CodeLLDB does not let a script name frames
        names = [frame["name"] for frame in session.frames()[:3]]
        crate = BINARY.replace("-", "_")
        assert names[:2] == [f"{crate}::train", f"{crate}::main::{{{{closure}}}}"] and "$" not in names[2], names
    variables = session.variables()
    value = lambda name: variables[name][0]
    # A None that is a niche in PathBuf.
    has(value("config"), "^None$")
    has(value("title"), f'"rank {rank} of {nproc}"')
    has(value("indices"), f"size={2048 // nproc}")
    indices = session.variables(variables["indices"][1])
    has(indices["[0]"][0], r"^\d+$")
    has(value("numbers"), r"^\[32\] int64 cpu \[\d+, ")
    has(value("x"), r"^\[32, 2\] float32 cpu \[-?\d+\.\d+, .*…\]$")
    has(value("loss"), r"^\[\] float32 cpu, requires_grad \d+\.\d+$")
    has(value("context"), f"rank {rank} of {nproc}")
    has(value("train"), f"epoch 0: at {32 * nproc} of 2048 samples, {2048 // nproc} for rank {rank} of {nproc}, shuffled with seed 0")
    has(value("run"), "epoch 0, step 0, 0 samples")
    parts = session.variables(variables["x"][1])
    has(parts["dtype"][0], "float32")
    has(session.variables(parts["shape"][1])["[1]"][0], "^2$")
    assert len(session.variables(parts["values"][1])) == 64, "all values of x"


def f5(nproc):
    made = editor(nproc)
    launcher, = made.f5(f"ddp: run {BINARY} on {nproc} ranks", args=run(nproc))
    stopped = made.stopped(nproc)
    assert [s.name for s in stopped] == [f"{BINARY} rank {rank}" for rank in range(nproc)], made.say()
    for rank, session in enumerate(stopped):
        check_variables(session, rank, nproc)
    stopped[0].go_on()    # and so all, through the first batch, in which every rank gets its breakpoint again
    stopped = made.stopped(nproc, times=2)
    for rank, session in enumerate(stopped):
        has(session.variables()["train"][0],
            f"epoch 0: at {64 * nproc} of 2048 samples, {2048 // nproc} for rank {rank} of {nproc}, shuffled with seed 0")
    finish(made, stopped)
    launcher.wait_for_text(f"Finished.* {nproc} workers")
    assert launcher.stops == [], "the launcher never stops"
    return made


def f5_2():
    f5(2)


def f5_4():
    f5(4)


def group_2():
    group(2)


def group_4():
    group(4)


def independent():
    """DDP_DEBUG_GROUP=off in the launch configuration: each rank stops and continues by itself."""
    made = editor(2)
    name = f"ddp: run {BINARY} on 2 ranks"
    env = next(conf for conf in made.json("launch.json")["configurations"] if conf["name"] == name)["env"]
    env = {**env, "DDP_DEBUG_GROUP": "off"} if isinstance(env, dict) else [*env, "DDP_DEBUG_GROUP=off"]
    launcher, = made.f5(name, args=run(2), env=env)
    first, second = made.stopped(2)
    made.clear_breakpoints()
    first.go_on()
    time.sleep(1)
    assert second.is_stopped and len(second.stops) == 1 and not first.is_stopped, made.say()
    second.go_on()
    made.all_over()
    assert (launcher.code, first.code, second.code) == (0, 0, 0), made.say()


def rounds_2():
    rounds(2)


def rounds_4():
    rounds(4)


def ranks_2():
    ranks(2)


def ranks_4():
    ranks(4)


def compound():
    """The workers are started before the launcher."""
    made = editor(2)
    name = f"ddp: {BINARY}, launcher + 2 workers"
    launch = made.json("launch.json")
    made.run_task(launch["compounds"][0]["preLaunchTask"])
    for n in [f"ddp: {BINARY}, rank 1 of 2", f"ddp: {BINARY}, rank 0 of 2"]:
        made.f5(n, args=ARGS)
    made.wait("rank 1 that waits", lambda: "rank 1 is waiting for its launcher" in made.say())
    launcher, = made.f5(f"ddp: {BINARY}, launcher", args=run(2))
    stopped = made.stopped(2)
    for rank, session in enumerate(stopped):
        check_variables(session, rank, 2)
    finish(made, stopped)
    launcher.wait_for_text("Finished.* 2 workers")
    # Then in the order of launch.json.
    again = editor(2)
    launcher, *_ = again.f5(name)
    stopped = again.stopped(2)
    os.kill(launcher.pid(), signal.SIGKILL)    # no process is left, though all are stopped at a breakpoint
    again.all_over()
    again.close()


def one_process():
    made = editor(2)
    session, = made.f5(f"ddp: {BINARY}, one process", args=ARGS)
    made.wait("stop", lambda: session.stops)
    check_variables(session, 0, 1)
    made.clear_breakpoints()
    session.go_on()
    made.all_over()
    assert session.code == 0, made.say()


def attach():
    launcher = os.path.join(PROJECT, ".ddp/cargo-ddp")
    args = ["ddp", "run", "--bin", BINARY, "--nproc", "2", "--", "--total-epochs", "1000000", "--snapshots"]
    start = lambda name: subprocess.Popen([launcher, *args, os.path.join(SNAPSHOTS, name)], cwd=PROJECT, stdin=subprocess.DEVNULL,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    job, other = start("one"), start("other")
    try:
        for one in (job, other):
            wait_for(one, "epoch   2 ")
        threading.Thread(target=other.stdout.read, daemon=True).start()    # so that it continues
        made, attached, sessions = attach_to(job)
        stop_all_and_look_whether_it_goes_on(made, job, attached, *sessions)
        made, attached, sessions = attach_to(job)
        for session in sessions:
            session.go_on()
        end(job)
        made.all_over()
        assert attached.code == 0 and {session.code for session in sessions} == {75}, made.say()
        assert other.poll() is None
    finally:
        for one in (job, other):
            one.kill()    # its workers die with it


def wait_for(job, words):
    assert any(words in line for line in job.stdout), job.wait()


def attach_to(job):
    made = editor(2)
    # Of several jobs, one is chosen in a terminal.
    run = next(one["run"] for one in json.loads(ddp("ps", "--json")) if one["pid"] == job.pid)
    made.answer = "Number of the job: ", lambda text: re.search(rf"(\d+)  {run} \(2 workers\)", text)[1]
    attached, = made.f5("ddp: attach to a running job")
    # A rank that is attached to later may wait in a collective for a rank that is stopped already.
    while len(stopped := made.stopped(1)) < 2:
        try:
            made.wait("other rank", lambda: len(made.stopped(1)) == 2, 5)
        except AssertionError:
            stopped[0].go_on()
            stopped[0].stops.clear()
    assert not os.path.exists(os.path.join(PROJECT, ".ddp/debug/attach")), "what was chosen is so once"
    first, second = made.workers()
    for rank, session in enumerate((first, second)):
        has(session.variables()["title"][0], f'"rank {rank} of 2"')
    made.clear_breakpoints()
    return made, attached, (first, second)


def stop_all_and_look_whether_it_goes_on(made, job, attached, first, second):
    second.stop()
    first.go_on()
    here = int(re.search(r"epoch +(\d+) ", job.stdout.readline())[1])
    wait_for(job, f"epoch {here + 50:3} ")
    attached.stop()
    first.stop()
    made.all_over()
    assert [session.code for session in (attached, first, second)] == [None] * 3, made.say()


def end(job):
    job.send_signal(signal.SIGTERM)
    rest = job.stdout.read()
    assert job.wait(120) == 75 and "Restarting" not in rest, f"the job saves and ends as it would without a debugger: {rest}"


def killed():
    """A rank that is killed at a breakpoint: its session ends immediately, the other stays for the user to examine."""
    made = editor(2)
    launcher, = made.f5(f"ddp: run {BINARY} on 2 ranks", args=run(2, "--max-restarts", "0", "--grace", "1"))
    first, second = made.stopped(2)
    pid = second.configuration["pid"]
    os.kill(pid, signal.SIGKILL)
    made.wait("end of rank 1's session", lambda: second.over, 30)
    made.wait("report", lambda: f"rank 1 was killed by SIGKILL (pid {pid}" in launcher.text(), 30)
    made.wait("word of rank 0", lambda: "rank 0 is paused in a debugger" in launcher.text(), 30)
    time.sleep(2)    # longer than the grace period
    assert not first.over and not launcher.over, made.say()
    first.variables()
    made.clear_breakpoints()
    os.kill(first.configuration["pid"], signal.SIGPIPE)    # like a write to the rank that has exited; the debugger does not stop there
    first.go_on()
    made.all_over()
    assert launcher.code == 128 + signal.SIGKILL, made.say()
    launcher.wait_for_text(r"error:\S* rank 1 was killed by SIGKILL")


def restart():
    made = editor(2)
    launcher, = made.f5(f"ddp: run {BINARY} on 2 ranks", args=run(2, "--grace", "1"))
    first, second = made.stopped(2)
    os.kill(second.configuration["pid"], signal.SIGKILL)
    made.wait("end of rank 1's session", lambda: second.over, 30)
    first.go_on()
    made.wait("end of rank 0's session", lambda: first.over)
    stopped = made.stopped(2)
    assert [s.name for s in stopped] == [f"{BINARY} rank {rank}, attempt 2" for rank in range(2)], made.say()
    made.clear_breakpoints()
    for session in stopped:
        session.go_on()
    made.all_over()
    assert launcher.code == 0 and all(s.code == 0 for s in stopped), made.say()
    launcher.wait_for_text("1 restart")


def stop():
    made = editor(2)
    launcher, = made.f5(f"ddp: run {BINARY} on 2 ranks", args=run(2))
    made.stopped(2)
    launcher.dap.close()
    made.wait("end of all sessions", lambda: all(s.over for s in made.sessions), 30)


def detach():
    """Disconnect on one rank, which is in Stop's menu, lets the rank continue without a debugger."""
    made = editor(2)
    launcher, = made.f5(f"ddp: run {BINARY} on 2 ranks", args=run(2))
    first, second = made.stopped(2)
    made.clear_breakpoints()
    second.dap.close(kill=False)
    first.go_on()
    made.all_over()
    assert (launcher.code, first.code, second.code) == (0, 0, None), made.say()
    launcher.wait_for_text("Finished.* 2 workers")


def nodes():
    """F5 on one node of two: its own rank stops, and the other node's rank waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    made = editor(1)
    of_node = lambda node: run(1, "--nnodes", "2", "--node-rank", str(node), "--master-addr", "127.0.0.1", "--master-port", str(port))
    env = {**os.environ, "DDP_TIMEOUT": "86400"}
    other = subprocess.Popen([os.environ["DDP_TEST_CARGO_DDP"], *of_node(1)], cwd=PROJECT, env=env, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
    try:
        launcher, = made.f5(f"ddp: run {BINARY} on 1 rank", args=of_node(0))
        stopped = made.stopped(1)
        has(stopped[0].variables()["context"][0], "^rank 0 of 2$")
        assert other.poll() is None, other.communicate()[0]
        ranks = sorted(job["first_rank"] for job in json.loads(ddp("ps", "--json")) if job["folder"] == PROJECT)
        assert ranks == [0, 1], ranks    # `attach` names its sessions by these
        finish(made, stopped)
        launcher.wait_for_text("Finished.* 2 workers")
        assert other.wait(60) == 0, other.communicate()[0]
    finally:
        other.terminate()


def panic():
    """A panic stops where it happens, in the rank where it does."""
    made = editor(2, breakpoint=False)
    os.environ["DDP_TEST_PANIC"] = "1"
    launcher, = made.f5(f"ddp: run {BINARY} on 2 ranks", args=run(2, "--max-restarts", "0"))
    other, stopped = made.all_stopped()
    assert SOURCE in [frame.get("source", {}).get("path") for frame in stopped.frames()], stopped.frames()
    if made.adapter.name == "lldb-dap":
        assert other.stops[-1]["description"] == "Paused: rank 1 panicked", made.say()
        assert stopped.frames()[1]["source"]["path"] == SOURCE, stopped.frames()[:3]
    stopped.go_on()
    made.all_over()
    assert launcher.code == 101, made.say()


def break_here():
    """`debug::break_here(1)` stops rank 1, and so does a condition by rank."""
    made = editor(2, breakpoint=False)
    os.environ["DDP_TEST_BREAK_HERE"] = "1"
    launcher, = made.f5(f"ddp: run {BINARY} on 2 ranks", args=run(2))
    other, stopped = made.all_stopped()
    # Two functions of ddp-runtime are on top, inlined.
    assert SOURCE in [frame.get("source", {}).get("path") for frame in stopped.frames()[:3]], stopped.frames()
    made.set_breakpoint("src/main.rs", LINE, condition="context.world.rank == 1")
    for session in made.workers():
        session.set_breakpoints()
    stopped.go_on()
    made.wait("stop at the condition", lambda: len(stopped.stops) > 1)
    made.all_stopped()
    if made.adapter.name == "lldb-dap":
        assert [stop["reason"] for stop in other.stops] == ["pause", "pause"], made.say()
    finish(made, [stopped])
    assert launcher.code == 0


def missing():
    """`cargo ddp` is not installed: F5 stops with cargo's message."""
    made = editor(2)
    try:
        made.f5(f"ddp: run {BINARY} on 2 ranks")
    except TaskFailed as err:
        has(str(err), "no such command: `ddp`")
        assert made.sessions == []
    else:
        raise AssertionError("the task should fail")


def broken():
    """The build fails: F5 stops with the compiler's message."""
    made = editor(2)
    try:
        made.f5(f"ddp: run {BINARY} on 2 ranks")
    except TaskFailed as err:
        has(str(err), r"ended with 101")
        has(str(err), r"(?s)error.*cannot find value `nowhere`.*src/main.rs")
        assert made.sessions == []
    else:
        raise AssertionError("the task should fail")


def at_step():
    """F5 on *go to a step* stops both ranks at the end of that step of an earlier run, in the user's loop."""
    made = editor(2, breakpoint=False)
    launcher = os.path.join(PROJECT, ".ddp/cargo-ddp")
    subprocess.run([launcher, *run(2), "--save-every", "1", "--keep-every", "32"], cwd=PROJECT, stdout=subprocess.PIPE, check=True)    # 64 steps
    made.step = "40"
    launcher, = made.f5(f"ddp: go to a step of {BINARY}")
    stopped = made.stopped(2)
    for rank, session in enumerate(stopped):
        frames = session.frames()
        top, user = frames[:2]
        assert "step_done" in top["name"], frames[:3]
        assert (user["source"]["path"], user["line"]) == (SOURCE, LINE), frames[:3]
        scope = session.dap.call("scopes", frameId=user["id"])["scopes"][0]["variablesReference"]
        variables = session.variables(scope)
        has(variables["run"][0], "epoch 1, step 40, 512 samples")
        has(variables["x"][0], r"^\[32, 2\] float32 cpu \[-?\d+\.\d+, .*…\]$")    # the batch of that step
    # They continue to the run's end, with snapshots of their own.
    before = sorted(os.listdir(SNAPSHOTS))
    finish(made, stopped)
    assert sorted(os.listdir(SNAPSHOTS)) == before == ["step-00000032", "step-00000064"], before
    launcher.wait_for_text(r"Replaying.*steps 33 to 40 of run \d+ with 2 workers")


try:
    {f.__name__: f for f in (f5_2, f5_4, group_2, group_4, rounds_2, rounds_4, console, ranks_2, ranks_4, independent, compound, one_process,
                             attach, killed, restart, stop, detach, nodes, panic, break_here, tensors, positions, missing, broken,
                             at_step)}[NAME]()
    print(f"{NAME}: ok")
except Exception:
    traceback.print_exc()    # before the cleanup, which may take long
    sys.exit(1)
finally:
    for made in editors:
        made.close()
    shutil.rmtree(SNAPSHOTS, ignore_errors=True)
