"""Scenarios of ranks that stop and continue together."""
import os, random, re, statistics, subprocess, sys, time
from stage import ARGS, BINARY, PROJECT, SNAPSHOTS, SOURCE, editor, finish, has, program, run

LIMIT = 20    # seconds within which all ranks follow one: a second on a quiet machine
ROUNDS = int(os.environ.get("DDP_TEST_ROUNDS", 200))
# Whether two ranks get commands at the same moment, too. Once in some hundred rounds, lldb keeps the plan of a step that it has
# refused, and the rank stops again at each *Continue*.
CROSSING = int(os.environ.get("DDP_TEST_CROSSING", "0"))
# Processes that keep cores busy. In CI, other tests do.
LOAD = int(os.environ.get("DDP_TEST_LOAD", "0" if "CI" in os.environ else "2"))


def line(text):
    return next((n for n, one in enumerate(open(SOURCE), 1) if text in one), None)    # other scenarios have other programs


BREAK, ZERO_GRAD = line("// BREAK"), line("run.optimizer.zero_grad()?")
BACKWARD, STEP, LOSSES = line("ddp.backward(&loss)?"), line("run.optimizer.step()?"), line("losses.add(&loss)?")


def top(session):
    """The file's line of the innermost frame that has a source in the project."""
    return next(frame["line"] for frame in session.frames() if frame.get("source", {}).get("path") == SOURCE)


def last(session):
    return session.stops[-1]


def delay(first, others):
    """Seconds from one session's stop to the last one's."""
    return max(last(session)["at"] for session in others) - last(first)["at"]


def start(nproc, args=ARGS):
    """All ranks at the line marked BREAK, without breakpoints."""
    made = editor(nproc)
    launcher, = made.f5(f"ddp: run {BINARY} on {nproc} ranks", args=run(nproc, args=args))
    made.stopped(nproc)
    stopped = made.all_stopped()
    assert all(last(session)["reason"] == "breakpoint" for session in stopped), made.say()
    made.clear_breakpoints()
    return made, launcher, stopped


def group(nproc):
    made, launcher, ranks = start(nproc)
    first, second = ranks[:2]
    relayed = made.adapter.name == "lldb-dap"

    # A breakpoint in rank 1 only, set in rank 0's console.
    first.console(f"ddp break {SOURCE}:{BACKWARD} --rank 1")
    made.wait("word of rank 1", lambda: "rank 1: breakpoint" in first.text(), 10)
    first.go_on()
    made.wait("rank 1's breakpoint", lambda: second.is_stopped and last(second)["reason"] == "breakpoint")
    made.all_stopped(LIMIT)
    assert top(second) == BACKWARD, second.frames()[0]
    for session in ranks:
        if session is not second and relayed:
            has(last(session)["description"], f"^Paused: rank 1 stopped at main.rs:{BACKWARD}$")
            assert last(session)["reason"] == "pause" and last(session)["preserveFocusHint"], last(session)
            label, own = session.frames()[:2]
            has(label["name"], r"^in .* \(\d+ frames\)$")
            assert own["source"]["path"] == SOURCE, own
    second.console("breakpoint delete --force")

    # All ranks at the same line: a step over a collective takes all of them to the next line.
    made.set_breakpoint("src/main.rs", BACKWARD)
    for session in ranks:
        session.set_breakpoints()
    for _ in range(10):    # past the batches that they have begun
        made.all_stopped()
        if [top(one) for one in ranks] == [BACKWARD] * nproc and all(last(one)["reason"] == "breakpoint" for one in ranks):
            break
        first.go_on()
        time.sleep(1)
    made.clear_breakpoints()
    assert [top(session) for session in ranks] == [BACKWARD] * nproc, [top(session) for session in ranks]
    for user, expected in [(first, STEP), (second, LOSSES)]:
        user.resume("next")
        made.wait("end of the step", lambda: user.is_stopped)
        time.sleep(0.1)
        made.all_stopped(LIMIT)
        assert [top(session) for session in ranks] == [expected] * nproc, made.say()
    finish(made, ranks)
    made.all_over()
    assert launcher.code == 0 and all(session.code == 0 for session in ranks), made.say()


def console():
    """The commands of the debug console."""
    made, launcher, (first, second) = start(2)
    relayed = made.adapter.name == "lldb-dap"
    for command, answer in [("ddp only 7", r"rank 7 not found \(debugged here: 0, 1\)"), ("ddp only", "required: RANK"),
                            ("ddp break nowhere.rs:1 --rank 0", "no code at nowhere.rs:1"), ("ddp break main", "required: --rank"),
                            ("ddp group maybe", "invalid choice: 'maybe'")]:
        has(first.console(command), answer)
    while not top(first) == top(second) == ZERO_GRAD:    # which needs no other rank
        first.resume("next")
        made.wait("end of the step", lambda: first.is_stopped)
        time.sleep(0.5)
        made.all_stopped(LIMIT)
    has(second.console("ddp only 0"), "only rank 0 moves")
    stops = len(second.stops)
    first.resume("next")
    made.wait("end of the step", lambda: first.is_stopped)
    assert top(first) == ZERO_GRAD + 1 and top(second) == ZERO_GRAD and len(second.stops) == stops, made.say()
    second.go_on()    # and is held
    made.wait("stop of the rank that is held", lambda: second.is_stopped)
    if relayed:
        assert last(second)["description"] == "Paused: only rank 0 moves", last(second)
    has(first.console("ddp go"), "all ranks continue")
    made.all_running()
    second.pause()
    made.all_stopped(LIMIT)
    has(first.console("ddp group off"), "each rank stops and continues by itself")
    has(first.console("ddp go"), "each rank continues by itself")
    stops = len(second.stops)
    first.go_on()
    time.sleep(1)
    assert second.is_stopped and len(second.stops) == stops and not first.is_stopped, made.say()
    has(second.console("ddp group on"), "ranks stop and continue together")
    made.all_stopped(LIMIT)
    finish(made, [second])
    made.all_over()
    assert launcher.code == 0 and first.code == second.code == 0, made.say()


def flip(session, tensor, element):
    """Flips the last bit of a float32 in a tensor's memory."""
    code = [f"tensor = ddp_debug.ddp_ranks.Tensor(lldb.frame.GetValueForVariablePath('{tensor}'))",
            f"address = tensor.content()[0] + {element * 4}",
            "byte = lldb.process.ReadMemory(address, 1, lldb.SBError())[0] ^ 1",
            "print('flipped', lldb.process.WriteMemory(address, bytes([byte]), lldb.SBError()))"]
    has(session.console(f"script {'; '.join(code)}"), "flipped 1")


def ranks(nproc):
    """`ranks EXPR` and `ranks diff`."""
    made, launcher, stopped = start(nproc, program(200, SNAPSHOTS))    # seconds, for a look at running ranks
    first, second = stopped[:2]
    each = lambda text, start="", indent="": "(?m)^" + start + r"\n".join(
        f"{indent}rank {rank}  {text(rank) if callable(text) else text}" for rank in range(nproc)) + "$"
    titles = lambda rank: f'"rank {rank} of {nproc}"'
    title = each(titles)
    for session in (first, second):
        has(session.console("ranks title"), title)
    has(first.console("ranks loss"), each(r"\[\] float32 cpu, requires_grad \S+"))
    has(second.console("ranks args.batch_size + 1"), each("33"))
    has(first.console("ranks x"), r"(?m)^first difference at \[0, 0\]: rank 0 \S+, rank 1 \S+")
    error = first.console("ranks nowhere")
    assert len(re.findall("undeclared identifier 'nowhere'", error)) == 1 and "rank 1" not in error, error
    has(first.console("ranks "), "usage: ranks EXPR")
    text = second.console("ranks diff")
    has(text, each(titles, r"title\n", "  "))
    has(text, r"(?m)^x\n(  rank \d  \[32, 2\] float32 .*\n)+  first difference at \[0, 0\]: rank 0 \S+, rank 1 \S+")
    has(text, r"(?m)^y$")
    has(text, r"(?m)^\d+ of \d+ variables differ$")
    for same in ("config", "indices", "numbers", "model", "vs", "optimizer", "ddp", "epoch"):
        assert not re.search(rf"(?m)^{same}\b", text), text

    # All ranks have the same weights, until the last bit of one changes.
    same = r"(?m)^rank 0  (\[1, 2\] float32 cpu, .*)" + "".join(rf"\nrank {rank}  \1" for rank in range(1, nproc)) + "$"
    weights = first.console("ranks model.ws")
    has(weights, same)
    assert "differ" not in weights, weights
    flip(second, "model.ws", 1)
    weights = first.console("ranks model.ws")
    has(weights.replace("  <- differs", ""), same)
    has(weights, r"(?m)^first difference at \[0, 1\]: rank 0 \S+, rank 1 \S+")
    assert re.findall(r"rank (\d)  .*  <- differs", weights) == (["1"] if nproc > 2 else []), weights
    text = first.console("ranks diff")
    has(text, r"(?m)^model\.ws\n(  rank .*\n)+  first difference at \[0, 1\]: rank 0 \S+, rank 1 \S+")
    has(text, r"(?m)^vs\.")
    flip(second, "model.ws", 1)

    # Rank 0 alone steps into a function.
    has(first.console("ddp only 0"), "only rank 0 moves")
    for _ in range(20):
        stops = len(first.stops)
        first.resume("stepIn")
        made.wait("end of the step", lambda: first.is_stopped and len(first.stops) > stops)
        if not first.frames()[0]["name"].endswith("::train"):
            break
    has(second.console("ranks title"), title)
    has(first.console("ranks 1 + 1"), each(lambda rank: "not in ddp_runtime::.*" if rank else "2"))
    has(first.console("ddp go"), "all ranks continue")
    made.all_running()
    has(first.console("ranks title"), "rank 0 is running: pause it first")
    second.pause()
    made.all_stopped(LIMIT)
    has(second.console("ranks title"), title)    # wherever they were interrupted
    finish(made, [first])
    made.all_over()
    assert launcher.code == 0 and all(session.code == 0 for session in stopped), made.say()


# --- random rounds ----------------------------------------------------------------------------------------------------

class Rounds:
    """What a user does, at random ranks; after each round, all ranks have to agree."""

    def __init__(self, made, ranks):
        self.made, self.ranks, self.taken, self.random = made, ranks, [], random.Random(os.environ.get("DDP_TEST_SEED", "14"))

    def agree(self, what):
        """Waits until all ranks are stopped, or all run, and stay so. Returns whether they are stopped."""
        begin = time.monotonic()
        agreed = None
        while agreed is None or time.monotonic() - agreed < 0.25:
            now = time.monotonic()
            states = {session.is_stopped for session in self.ranks}
            agreed = (agreed or now) if len(states) == 1 else None
            assert now - begin < LIMIT and not any(session.over for session in self.ranks), f"{what}: {self.say()}"
            time.sleep(0.005)
        self.taken.append(agreed - begin)
        return self.ranks[0].is_stopped

    def say(self):
        return f"{[session.is_stopped for session in self.ranks]}\n{self.made.say()}"

    def stop(self):
        """Until all are stopped, at their breakpoint or by *Pause*."""
        if not self.agree("stop"):
            self.pause(self.random.choice(self.ranks))

    def pause(self, user):
        user.pause()
        self.made.wait("pause", lambda: user.is_stopped)
        assert self.agree("pause"), self.say()

    def breakpoints(self, on):
        self.made.clear_breakpoints()
        if on:
            self.made.set_breakpoint("src/main.rs", BREAK)
            for session in self.ranks:
                session.set_breakpoints()

    def play(self):
        kind = self.random.choice(["continue", "next", "next", "stepIn", "stepOut", "pause", *["crossing"] * CROSSING])
        user, other = self.random.sample(self.ranks, 2)
        if kind == "pause":
            self.breakpoints(False)
            user.go_on()
            for _ in range(5):
                if not self.agree("continue"):
                    break
                # lldb resumes a step that a breakpoint has interrupted.
                assert "step" in [last(session)["reason"] for session in self.ranks], self.say()
                user.go_on()
            else:
                raise AssertionError(f"a rank stops at each Continue: {self.say()}")
            time.sleep(self.random.random() * 0.1)
            self.pause(other)
            self.breakpoints(True)
        elif kind == "crossing":
            # (One of them may be refused: the other one's command was first.)
            kinds = ["continue", "next"] if self.made.adapter.name == "lldb-dap" else ["continue"]
            user.try_to(self.random.choice(kinds))
            other.try_to(self.random.choice([*kinds, "pause"]))
            self.stop()
        else:
            if self.made.adapter.name != "lldb-dap" and user.frames()[0].get("source", {}).get("path") != SOURCE:
                # Without the relay, it would be a step in libc, where other threads of the process do not run.
                kind = "continue"
            elif kind == "stepOut" and user.frames()[0].get("source", {}).get("path") in (SOURCE, None):    # would end the program
                kind = "next"
            user.resume(kind)
            self.made.wait(f"end of {kind}", lambda: user.is_stopped)
            self.stop()


def rounds(nproc):
    """The job ends with the same weights as without a debugger."""
    epochs = ROUNDS * 4
    command = [os.environ["DDP_TEST_CARGO_DDP"], *run(nproc, args=program(epochs, os.path.join(SNAPSHOTS, "plain")))]
    plain = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True).stdout
    made, launcher, ranks = start(nproc, program(epochs, os.path.join(SNAPSHOTS, "debugged")))
    load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(LOAD)]
    try:
        play = Rounds(made, ranks)
        play.breakpoints(True)
        for _ in range(ROUNDS):
            play.play()
    finally:
        for process in load:
            process.kill()
            process.wait()
    print(f"{ROUNDS} rounds with {nproc} ranks: all agree after {statistics.median(play.taken):.3f} s (median), {max(play.taken):.3f} s (most)")
    finish(made, ranks)
    made.all_over()
    assert launcher.code == 0 and all(session.code == 0 for session in ranks), made.say()
    weights = lambda text: re.search(r"w = .*", text)[0].strip()
    assert weights(launcher.text()) == weights(plain), made.say()
