#!/usr/bin/env python3
"""Runs the GPU checks on a machine that has a GPU, CUDA 13's libraries from pip and Python 3.12, but no cargo.

    run.py [PATTERN]     all checks, or those whose name matches the regular expression
    run.py --list        their names, and what each must show

One line per check as it ends, and a table at the end. The output folder ($OUT, or ./out) gets results.json, table.txt,
logs.txt and runs.tar.gz (the launcher's folders of all runs).
"""
import argparse, json, os, pathlib, platform, re, shutil, signal, subprocess, sys, tarfile, threading, time

import checks
from trial import Failed, Skipped, Trial

HERE = pathlib.Path(__file__).resolve().parent
LOG_BYTES = 300_000  # of one check's log in logs.txt: its beginning and its end


class Machine:
    """Where everything is, and the environment of the programs."""

    def __init__(self, args):
        self.cpu, self.python, self.into = args.cpu, sys.executable, args.into
        self.torch, self.work, self.bundle = args.into / "torch", args.into / "work", args.into / "bundle"
        self.bin = self.bundle / "bin"
        self.processes = []  # all that were started, each in a session of its own
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "log").mkdir(parents=True)
        if not (self.torch / "lib/libtorch_cuda.so").exists():
            self.unpack(args.parts, self.into)
        shutil.rmtree(self.bundle, ignore_errors=True)
        self.unpack(HERE, self.bundle)
        self.commit = (self.bundle / "commit").read_text().strip()
        self.gpu = self.card()
        self.env = self.environment()

    def end_all(self):
        """Ends all remaining processes when the run is interrupted."""
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def unpack(self, parts, into):
        subprocess.run([sys.executable, HERE / "unpack.py", parts, into], check=True)

    def card(self):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        try:
            return subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip().partition("\n")[0]
        except (OSError, subprocess.TimeoutExpired):
            return "unknown: nvidia-smi does not answer" if pathlib.Path("/dev/nvidia0").exists() else ""

    def environment(self):
        # Python's torch looks for NCCL here before it looks anywhere else.
        ours = self.into / "nccl/lib/libnccl.so.2"
        ours.parent.mkdir(parents=True, exist_ok=True)
        if not ours.exists():
            ours.symlink_to("../libnccl.so.2")
        site = subprocess.run([sys.executable, "-c", "import nvidia; print(*nvidia.__path__)"], capture_output=True, text=True)
        sites = os.environ.get("NVIDIA_SITES", site.stdout).split()
        folders = [self.into / "nccl", self.torch / "lib", *(lib for s in sites for lib in sorted(pathlib.Path(s).glob("*/lib")))]
        env = {name: value for name, value in os.environ.items()
               if name not in ("LIBTORCH", "DDP_TIMEOUT", "PYTHONPATH", "CUDA_VISIBLE_DEVICES")}
        paths = [str(folder) for folder in folders] + [path for path in (env.get("LD_LIBRARY_PATH"),) if path]
        env["LD_LIBRARY_PATH"] = ":".join(paths)
        # NCCL 2.30 and newer take several ranks on one GPU with these.
        env |= {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_NVLS_ENABLE": "0"}
        if not self.cpu:
            env["GPU_CHECKS_NEED_GPU"] = "1"
        return env


class Report:
    """Prints results as they arrive, and stores them."""

    def __init__(self, out, machine):
        self.out, self.machine, self.results, self.lock = out, machine, [], threading.Lock()
        out.mkdir(parents=True, exist_ok=True)
        (out / "logs.txt").write_text("")

    def add(self, name, result, seconds, last, log=None):
        line = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(last.split()))[:160]
        with self.lock:
            self.results.append({"name": name, "result": result, "seconds": round(seconds, 1), "last": line})
            print(f"{name:18} {result:4} {seconds:6.1f} s  {line}", flush=True)
            if log:
                text = log.read_bytes()
                if len(text) > LOG_BYTES:
                    text = text[:LOG_BYTES // 2] + b"\n...\n" + text[-LOG_BYTES // 2:]
                with open(self.out / "logs.txt", "ab") as logs:
                    logs.write(f"\n===== {name}: {result} {last} =====\n".encode() + text)

    def end(self, seconds, tables):
        m = self.machine
        found = {"gpu": m.gpu, "commit": m.commit, "kernel": platform.release(), "seconds": round(seconds),
                 "checks": self.results, "tables": tables}
        (self.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        counts = ", ".join(f"{sum(r['result'] == word for r in self.results)} {word}" for word in ("ok", "FAIL", "skip"))
        lines = [f"GPU: {m.gpu or 'none'}; commit {m.commit}; {seconds:.0f} s", ""]
        lines += [f"{r['name']:18} {r['result']:4} {r['seconds']:6.1f} s  {r['last'][:120]}" for r in self.results]
        lines += ["", counts, *tables]
        (self.out / "table.txt").write_text("\n".join(lines) + "\n")
        print("\n" + "\n".join(lines), flush=True)
        with tarfile.open(self.out / "runs.tar.gz", "w:gz") as tar:
            if (m.work / "runs").exists():
                tar.add(m.work / "runs", "runs")


def connect(machine, deadline):
    """How NCCL's ranks on one GPU reach each other depends on the machine: the first way that works is used by all checks."""
    ways = [{}, {"NCCL_P2P_DISABLE": "1"}, {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_SOCKET_IFNAME": "lo"}]
    for way in ways if machine.gpu else ways[:1]:
        trial = Trial("probe", machine, min(deadline, time.monotonic() + 40), way)
        try:
            trial.two(machine.bin / "gpu_checks", "probe")
            machine.env |= way
            print("two ranks on one GPU reach each other:", way or "as NCCL likes it", flush=True)
            return
        except Failed as failure:
            print("two ranks on one GPU do not reach each other:", way or "as NCCL likes it", failure, flush=True)


def run(name, machine, report, end):
    function, limit, _, _ = checks.CHECKS[name]
    begin = time.monotonic()
    if end - begin < 10:
        report.add(name, "skip", 0, "out of time")
        return
    trial = Trial(name, machine, min(begin + limit, end))
    try:
        function(trial)
        result, last = "ok", trial.last
    except Skipped as why:
        result, last = "skip", str(why)
    except Exception as failure:  # one check's bug must not end the others
        result, last = "FAIL", str(failure) if isinstance(failure, Failed) else repr(failure)
    report.add(name, result, time.monotonic() - begin, last, trial.log_path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pattern", nargs="?", default=".")
    parser.add_argument("--list", action="store_true", help="list the checks and what must hold")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU, to try the checks themselves")
    parser.add_argument("--limit", type=float, default=480, help="seconds after which everything has ended")
    parser.add_argument("--into", type=pathlib.Path, default="/opt/ddp", help="where everything is unpacked")
    parser.add_argument("--parts", type=pathlib.Path, help="where torch_parts.py's parts are [default: INTO/parts]")
    parser.add_argument("--out", type=pathlib.Path, default=os.environ.get("OUT", "out"))
    args = parser.parse_args()
    if args.list:
        for name, (_, seconds, holds, _) in checks.CHECKS.items():
            print(f"{name:18} {seconds:4} s  {holds}")
        return 0
    args.parts = args.parts or args.into / "parts"

    begin = time.monotonic()
    machine = Machine(args)
    report = Report(args.out, machine)
    print(f"unpacked after {time.monotonic() - begin:.0f} s; commit {machine.commit}")
    print(f"GPU: {machine.gpu or 'none'}; kernel {platform.release()}; {os.cpu_count()} cores; Python {platform.python_version()}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end = begin + args.limit - 20  # time to end programs, and for the table
    try:
        connect(machine, end)
        running, group = [], None
        for name, (_, _, _, own_group) in checks.CHECKS.items():
            if not re.search(args.pattern, name):
                continue
            if own_group is None or own_group != group:
                for thread in running:
                    thread.join()
                running = []
            group = own_group
            thread = threading.Thread(target=run, args=(name, machine, report, end), daemon=True)
            thread.start()
            running.append(thread)
        for thread in running:
            thread.join()
    finally:
        machine.end_all()
        report.end(time.monotonic() - begin, checks.tables(machine))
    return int(any(result["result"] == "FAIL" for result in report.results))


if __name__ == "__main__":
    sys.exit(main())
