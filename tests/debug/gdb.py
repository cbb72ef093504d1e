#!/usr/bin/env python3
"""gdb.py NAME PROJECT BINARY: what happens when a user of cppdbg debugs PROJECT (made by `cargo ddp new`, with a line marked
BREAK in its loop), through gdb's machine interface, with the configurations that `cargo ddp vscode` writes."""
import os, re, signal, subprocess, sys, tempfile, traceback
from editor import Editor
from mi import Gdb

NAME, PROJECT, BINARY = sys.argv[1:4]
SOURCE = os.path.join(PROJECT, "src/main.rs")
LINE = next(n for n, line in enumerate(open(SOURCE), 1) if "// BREAK" in line)
PLACE = f"{SOURCE}:{LINE}"
subprocess.run([os.environ["DDP_TEST_CARGO_DDP"], "ddp", "vscode", "--debugger", "cppdbg", "--nproc", "2"], cwd=PROJECT,
               check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
EDITOR = Editor(PROJECT, None)
LAUNCH = EDITOR.json("launch.json")
sessions = []


def start(name, args, more_args=(), breakpoints=(PLACE,)):
    """F5 on one configuration, with these arguments of the program."""
    configuration = EDITOR.resolve(next(conf for conf in LAUNCH["configurations"] if conf["name"] == name))
    assert configuration["type"] == "cppdbg" and configuration["MIMode"] == "gdb", configuration
    configuration["args"] = [*configuration["args"], *more_args, *args]
    session = Gdb(configuration)
    sessions.append(session)
    session.launch(breakpoints)
    return session


def start_compound(args, launcher_args=()):
    """Its members in their order: the launcher, and the ranks."""
    compound = next(one for one in LAUNCH["compounds"] if one["name"] == f"ddp: {BINARY}, launcher + 2 workers")
    EDITOR.run_task(compound["preLaunchTask"])
    launcher, *ranks = compound["configurations"]
    return start(launcher, launcher_args, breakpoints=()), [start(rank, args) for rank in ranks]


def has(value, pattern):
    assert re.search(pattern, value), f"{pattern!r} is not in {value!r}"


def check_stop(session, rank, nproc):
    """A String, a Vec, a tensor and types of ddp-runtime, at the breakpoint."""
    stop = session.stopped()
    assert stop["reason"] == "breakpoint-hit" and (stop["frame"]["fullname"], stop["frame"]["line"]) == (SOURCE, str(LINE)), stop
    variables = session.variables()
    has(variables["title"][0], f'^"rank {rank} of {nproc}"$')
    indices = session.children(variables["indices"][1])
    assert len(indices) == 10 and all(value.isdigit() for value in indices.values()), indices
    # gdb shows only a tensor's handle; the formatters for lldb show its content.
    handle, = session.children(variables["x"][1])
    assert handle == "c_tensor", handle
    context = session.children(session.evaluate("context.world", "--frame 0 --thread 1")[1])
    assert (context["rank"], context["world_size"]) == (str(rank), str(nproc)), context


def finish(session, words=""):
    session.call("-break-delete")
    session.go_on()
    ended(session, words)


def ended(session, words=""):
    stop = session.stopped()
    assert stop["reason"] == "exited-normally", f"{stop}\n{session.say()}"
    session.wait_for_text(words)


def args(snapshots, *more):
    return ["--total-epochs", "1", "--snapshots", snapshots, *more]


def one_process(snapshots):
    name = f"ddp: {BINARY}, one process"
    EDITOR.run_task(next(conf for conf in LAUNCH["configurations"] if conf["name"] == name)["preLaunchTask"])
    session = start(name, args(snapshots))
    check_stop(session, 0, 1)
    finish(session, r"w = \[")


def compound(snapshots):
    launcher, ranks = start_compound(args(snapshots))
    for rank, session in enumerate(ranks):
        check_stop(session, rank, 2)
    launcher.wait_for_text(r"rank 1 pid \d+\s")    # the whole line
    for pid in re.findall(r"rank \d pid (\d+)", launcher.text()):
        os.kill(int(pid), signal.SIGPIPE)    # like a write to a rank that has exited; gdb does not stop there
    for session in ranks:
        session.call("-break-delete")
        session.go_on()
    for session in ranks:
        ended(session)
    ended(launcher, "Finished.* 2 workers")


def panic(snapshots):
    """Stops in the rank where it happens, and the launcher reports it as usual."""
    os.environ["DDP_TEST_PANIC"] = "1"
    launcher, (first, second) = start_compound(args(snapshots))
    stop = second.stopped()
    assert stop["reason"] == "breakpoint-hit" and stop["frame"]["func"].endswith("rust_panic"), stop
    frames = second.call("-stack-list-frames")["stack"]
    assert SOURCE in [frame.get("fullname") for _, frame in frames], frames
    second.go_on()
    assert (second.stopped()["reason"], second.stopped()["exit-code"]) == ("exited", "0145"), second.say()    # 101
    has(first.stopped()["reason"], "^exited|^breakpoint-hit")
    if first.stopped()["reason"] == "breakpoint-hit":    # it stopped first, and stays for the user to examine
        first.call("-break-delete")
        first.go_on()
        has(first.stopped()["reason"], "^exited")
    assert (launcher.stopped()["reason"], launcher.stopped()["exit-code"]) == ("exited", "0145"), launcher.say()
    launcher.wait_for_text("rank 1 panicked")


def stop(snapshots):
    """Stop on the compound ends all its sessions (stopAll); no process is left."""
    _, ranks = start_compound(args(snapshots))
    for rank in ranks:
        rank.stopped()


try:
    with tempfile.TemporaryDirectory() as folder:
        {f.__name__: f for f in (one_process, compound, panic, stop)}[NAME](folder)
    print(f"{NAME}: ok")
except Exception:
    traceback.print_exc()
    print("\n".join(session.say() for session in sessions))
    sys.exit(1)
finally:
    for session in sessions:
        session.close()
