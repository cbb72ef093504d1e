#!/usr/bin/env python3
"""gdb.py gdb PROJECT BINARY: gdb stops at the line marked BREAK, in one process and in both ranks of a compound, shows a
String, and goes on to the end."""
import os, re, subprocess, sys, tempfile

_, PROJECT, BINARY = sys.argv[1:4]
SOURCE = os.path.join(PROJECT, "src/main.rs")
LINE = next(n for n, line in enumerate(open(SOURCE), 1) if "// BREAK" in line)
SYSROOT = subprocess.check_output(["rustc", "--print", "sysroot"], cwd=PROJECT, text=True).strip()
ETC = os.path.join(SYSROOT, "lib/rustlib/etc")


def gdb(snapshots, **env):
    """As rust-gdb, without questions."""
    commands = [f"break {SOURCE}:{LINE}", "run", "print title", "print indices.len", "print context.world.rank", "delete",
                "continue"]
    args = ["gdb", "--batch", "-nx", "-iex", "set debuginfod enabled off", "-iex", f"add-auto-load-safe-path {ETC}",
            "--directory", ETC, *(word for command in commands for word in ("-ex", command)),
            "--args", f"target/debug/{BINARY}", "--total-epochs", "1", "--snapshots", snapshots]
    env = {**os.environ, "PYTHONPATH": ETC, **env}
    return subprocess.Popen(args, cwd=PROJECT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def check(output, rank, nproc):
    for pattern in [f"hit Breakpoint 1.*:{LINE}|Breakpoint 1, .*:{LINE}", rf'\$1 = .*"rank {rank} of {nproc}"',
                    rf"\$2 = {2048 // nproc}", rf"\$3 = {rank}", r"\[Inferior 1 \(process \d+\) exited normally\]"]:
        assert re.search(pattern, output, re.S), f"{pattern!r} is not in\n{output}"


with tempfile.TemporaryDirectory() as snapshots:
    check(gdb(snapshots).communicate(timeout=240)[0], 0, 1)
with tempfile.TemporaryDirectory() as snapshots:
    ranks = [gdb(snapshots, DDP_JOIN=f".ddp/debug/{BINARY}.sock", DDP_JOIN_RANK=str(rank)) for rank in range(2)]
    launcher = [".ddp/cargo-ddp", "ddp", "run", "--bin", BINARY, "--nproc", "2"]
    done = subprocess.run(launcher, cwd=PROJECT, env={**os.environ, "DDP_DEBUG": "compound"}, text=True, timeout=240,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    for rank, output in enumerate(outputs):
        check(output, rank, 2)
    assert done.returncode == 0 and "Finished 2 workers" in done.stdout, done.stdout
print("gdb: ok")
