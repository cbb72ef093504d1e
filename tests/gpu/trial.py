"""Functions for checks: run programs with a time limit, alone, under the launcher, or as two ranks on one GPU."""
import os, re, shutil, signal, socket, subprocess, threading, time


class Failed(Exception):
    """Why a check failed, in one line."""


class Skipped(Exception):
    """Why a check can't run here, in one line."""


class Trial:
    """One run of one check. Its log gets everything that its programs print."""

    def __init__(self, name, machine, deadline, env=None):
        self.name, self.machine, self.deadline = name, machine, deadline
        self.bin, self.bundle, self.python, self.cpu = machine.bin, machine.bundle, machine.python, machine.cpu
        self.env = machine.env | (env or {})
        self.log_path = machine.work / "log" / name
        self.log = open(self.log_path, "w", encoding="utf-8", errors="replace")
        self.last = ""  # the result in one line, if the check has one

    def say(self, text):
        self.log.write(f"{text}\n")
        self.log.flush()
        self.last = str(text)

    def fresh(self, name=""):
        """A new empty folder for snapshots."""
        folder = self.machine.work / "data" / f"{self.name}{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def start(self, command, env=None, cwd=None, prefix=""):
        """Starts a program in a session of its own."""
        env = {name: value for name, value in (self.env | (env or {})).items() if value is not None}
        process = subprocess.Popen([str(word) for word in command], env=env, cwd=cwd, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                   start_new_session=True)
        process.lines = []

        def read():
            for line in process.stdout:
                process.lines.append(line)
                self.log.write(prefix + line)
                self.log.flush()

        process.reader = threading.Thread(target=read, daemon=True)
        process.reader.start()
        self.machine.processes.append(process)
        return process

    def end(self, process):
        """Waits until the deadline; then ends the program and its child processes. Returns its exit code."""
        try:
            process.wait(max(self.deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, number)
                    process.wait(10)
                    break
                except subprocess.TimeoutExpired:
                    pass
            process.reader.join(5)
            raise Failed("out of time") from None
        process.reader.join(5)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode

    def run(self, *command, env=None, cwd=None, code=0):
        """A program's output. Any exit code except `code` is a failure; None allows all."""
        process = self.start(command, env, cwd)
        ended = self.end(process)
        self.code = ended
        output = "".join(process.lines)
        if code is not None and ended != code:
            raise Failed(f"exit code {ended}, expected {code}: {reason(output)}")
        return output

    def launch(self, flags, program, **options):
        """A program under our launcher, without restarts unless `flags` say so."""
        common = ["--quiet", "--log-dir", self.machine.work / "runs" / self.name]
        if "--max-restarts" not in flags:
            common += ["--max-restarts", "0"]
        return self.run(self.bin / "cargo-ddp", "ddp", "launch", *common, *flags, "--", *program, **options)

    def one(self, *program, flags=(), **options):
        """One rank on GPU 0, under the launcher."""
        return self.launch([*flags, *(["--nproc", "1"] if self.cpu else ["--gpus", "0"])], program, **options)

    def launch_two(self, *program, flags=(), env=None, **options):
        """Two ranks on one GPU, under the launcher: without visible GPUs it starts any number of workers, and each worker uses
        the only GPU that it sees."""
        env = {"CUDA_VISIBLE_DEVICES": ""} | (env or {})
        return self.launch([*flags, "--nproc", "2"], ["env", "-u", "CUDA_VISIBLE_DEVICES", *program], env=env, **options)

    def two(self, *program, code=0, env=None):
        """Two ranks on one GPU, without the launcher. The output of both, with prefixes."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        job = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
               "OMP_NUM_THREADS": str(max(os.cpu_count() // 2, 1)), "NCCL_DEBUG": self.env.get("NCCL_DEBUG", "WARN"),
               "DDP_BACKTRACE": "1"} | (env or {})
        ranks = [self.start(program, job | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, prefix=f"[{rank}] ")
                 for rank in range(2)]
        codes, late = [], None
        for process in ranks:
            try:
                codes.append(self.end(process))
            except Failed as failure:
                late = failure
        output = "".join(f"[{rank}] {line}" for rank, process in enumerate(ranks) for line in process.lines)
        if late:
            raise Failed(f"out of time: {reason(output)}")
        self.codes = codes
        if code is not None and codes != [code, code]:
            raise Failed(f"exit codes {codes}, expected {code}: {reason(output)}")
        return output


def own_lines(output):
    """The lines without empty ones, and without those of c10d and NCCL."""
    noise = re.compile(r"^(\[(rank )?\d+\] )?(\s*$|\[[WE]\d|.*NCCL (WARN|version))")
    return [line.strip() for line in output.splitlines() if not noise.match(line)]


def last_line(output):
    return (own_lines(output) or ["no output"])[-1]


def reason(output):
    """The line with the reason, else the last one."""
    telling = [line for line in own_lines(output) if any(word in line for word in ("error: ", "panicked", "Error: ", "no GPU"))]
    return (telling or [last_line(output)])[0][:300]
