#!/usr/bin/env python3
"""debug.py PROJECT BINARY: from the request to launch (F5, after the build) until all ranks stand at a breakpoint in their
loop, and the memory of a session; without and with lldb's index cache. Prints a table for docs/debugging.md.
With lldb-dap, or with CodeLLDB: DDP_TEST_ADAPTER=codelldb CODELLDB=/path/to/adapter/codelldb.

PROJECT is one made by `cargo ddp new` and built with `cargo ddp build`, with a line marked `// BREAK` in its loop."""
import datetime, os, shutil, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "debug"))
import adapters
from editor import Editor, generate

PROJECT, BINARY = os.path.abspath(sys.argv[1]), sys.argv[2]
ADAPTER = adapters.chosen()
SOURCE = os.path.join(PROJECT, "src/main.rs")
LINE = next(n for n, line in enumerate(open(SOURCE), 1) if "// BREAK" in line)


def memory(pid):
    """Peak in MB of an adapter and what it started, without the debuggee."""
    total, todo = 0, [pid]
    while todo:
        pid = todo.pop()
        try:
            status = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
            if "lldb" in status["Name"]:
                total += int(status["VmHWM"].split()[0]) // 1024
                todo += [int(child) for child in open(f"/proc/{pid}/task/{pid}/children").read().split()]
        except (OSError, KeyError):
            pass
    return total


def once(nproc, cache):
    """With the folder `cache` for lldb's index cache; None: without one."""
    made = Editor(PROJECT, ADAPTER)
    made.set_breakpoint("src/main.rs", LINE)
    snapshots = tempfile.mkdtemp()
    inherited = made.child

    def child(arguments):
        commands = arguments["configuration"]["initCommands"]
        index = [f"settings set symbols.lldb-index-cache-path {cache}"] if cache else \
                ["settings set symbols.enable-lldb-index-cache false"]
        arguments["configuration"]["initCommands"] = commands + index
        inherited(arguments)

    made.child = child
    start = time.monotonic()
    # `launch` instead of `run`: cargo would look first whether there is something to build.
    args = ["ddp", "launch", "--nproc", str(nproc), "--", f"target/debug/{BINARY}", "--snapshots", snapshots]
    launcher, = made.f5(f"ddp: run {BINARY} on {nproc} ranks", args=args)
    stopped = made.stopped(nproc)
    taken = max(session.stops[0]["at"] for session in stopped) - start
    used = [memory(session.dap.process.pid) for session in stopped]
    launcher.dap.close()
    made.all_over()
    shutil.rmtree(snapshots)
    return taken, max(used)


def main():
    version = subprocess.run([ADAPTER.lldb(), "--version"], capture_output=True, text=True).stdout.split("\n")[0]
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, {ADAPTER.name}, {version}\n")
    print("| ranks | index cache | launch request to all ranks stopped | memory of a rank's session |\n|---|---|---|---|")
    for nproc in (2, 4):
        generate(PROJECT, nproc, ADAPTER)
        # What `f5` would run first is not measured.
        Editor.run_task = lambda self, label: None
        with tempfile.TemporaryDirectory() as cache:
            for kind, folder in [("none", None), ("empty", cache), ("filled", cache), ("filled", cache)]:
                taken, used = once(nproc, folder)
                print(f"| {nproc} | {kind} | {taken:.1f} s | {used} MB |", flush=True)
            size = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(cache) for name in names)
    print(f"\nThe cache takes {size / 1e6:.0f} MB.")


main()
