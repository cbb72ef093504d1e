#!/usr/bin/env python3
"""debug.py PROJECT BINARY [RANKS[,RANKS…] [TIMES]]: from the request to launch (F5, after the build) until all ranks stop at a
breakpoint in their loop, and the memory of a session; without lldb's index cache, with an empty one, and with a filled one
(the median of TIMES: 3). RANKS is 2,4. Prints a table for docs/measurements/debugging.md.
With lldb-dap, or with CodeLLDB: DDP_TEST_ADAPTER=codelldb CODELLDB=/path/to/adapter/codelldb.

PROJECT is one made by `cargo ddp new` and built with `cargo ddp build`, with a line marked `// BREAK` in its loop."""
import datetime, os, shutil, statistics, subprocess, sys, tempfile, time
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "debug"))
import adapters
from editor import Editor, generate

PROJECT, BINARY = os.path.abspath(sys.argv[1]), sys.argv[2]
ADAPTER = adapters.chosen()
RANKS = [int(count) for count in (sys.argv[3:4] or ["2,4"])[0].split(",")]
TIMES = int((sys.argv[4:5] or ["3"])[0])
SOURCE = os.path.join(PROJECT, "src/main.rs")
LINE = next(n for n, line in enumerate(open(SOURCE), 1) if "// BREAK" in line)


def memory(pid):
    """Peak in MB of an adapter and its child processes, without the debuggee."""
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
    # `launch` instead of `run`, which would let cargo check first whether there is something to build.
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
    load = os.getloadavg()[0]
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, load {load:.1f} before, {ADAPTER.name}, {version}\n")
    print("| ranks | index cache | launch request to all ranks stopped | memory of a rank's session |\n|---|---|---|---|")
    # The task that `f5` would run first is not measured.
    Editor.run_task = lambda self, label: None
    for nproc in RANKS:
        generate(PROJECT, nproc, ADAPTER)
        with tempfile.TemporaryDirectory() as cache:
            for kind, folder, times in [("none", None, 1), ("empty", cache, 1), ("filled", cache, TIMES)]:
                taken, used = zip(*(once(nproc, folder) for _ in range(times)))
                spread = f" ({min(taken):.1f} to {max(taken):.1f})" if times > 1 else ""
                print(f"| {nproc} | {kind} | {statistics.median(taken):.1f} s{spread} | {max(used)} MB |", flush=True)
            size = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(cache) for name in names)
    print(f"\nThe cache takes {size / 1e6:.0f} MB.")


main()
