"""The launch configurations of docs/debugging.md for lldb-dap, as `cargo ddp vscode --debugger lldb-dap` writes them."""
import json, os

FORMATTERS = ["settings set symbols.enable-lldb-index-cache true",
              "command script import ${workspaceFolder}/.ddp/debug/ddp_debug.py"]
SESSIONS = ["breakpoint set -K false -n ddp_start_debugging", "breakpoint command add -F ddp_debug.on_spawn"]
LAUNCHER, FOLDER = "${workspaceFolder}/.ddp/cargo-ddp", "${workspaceFolder}"


def write(folder, binary, nproc):
    task = f"ddp: build {binary}"
    common = {"type": "lldb-dap", "request": "launch", "cwd": FOLDER, "runInTerminal": True}
    run = ["ddp", "run", "--bin", binary, "--nproc", str(nproc)]
    opens = {"initCommands": FORMATTERS[1:], "preRunCommands": SESSIONS}
    program = "${workspaceFolder}/target/debug/" + binary
    configurations = [
        {**common, "name": f"ddp: run {binary} on {nproc} ranks", "program": LAUNCHER, "args": run,
         "env": ["DDP_DEBUG=lldb-dap"], **opens, "preLaunchTask": task},
        {**common, "name": f"ddp: {binary}, launcher", "program": LAUNCHER, "args": run, "env": ["DDP_DEBUG=compound"]},
        *({**common, "name": f"ddp: {binary}, rank {rank} of {nproc}", "program": program, "initCommands": FORMATTERS,
           "env": [f"DDP_JOIN=.ddp/debug/{binary}.sock", f"DDP_JOIN_RANK={rank}"]} for rank in range(nproc)),
        {**common, "name": f"ddp: {binary}, one process", "program": program, "initCommands": FORMATTERS,
         "preLaunchTask": task},
        {**common, "name": "ddp: attach to a running job", "program": LAUNCHER, "args": ["ddp", "attach"],
         "env": ["DDP_DEBUG=lldb-dap"], **opens},
    ]
    members = [f"ddp: {binary}, launcher", *(f"ddp: {binary}, rank {rank} of {nproc}" for rank in range(nproc))]
    compounds = [{"name": f"ddp: {binary}, launcher + {nproc} workers", "configurations": members,
                  "preLaunchTask": task, "stopAll": True}]
    tasks = [{"label": task, "type": "process", "command": "cargo", "args": ["ddp", "build", "--bin", binary]}]
    os.makedirs(os.path.join(folder, ".vscode"), exist_ok=True)
    for name, content in [("launch.json", {"version": "0.2.0", "configurations": configurations, "compounds": compounds}),
                          ("tasks.json", {"version": "2.0.0", "tasks": tasks})]:
        with open(os.path.join(folder, ".vscode", name), "w") as file:
            json.dump(content, file, indent=2)
