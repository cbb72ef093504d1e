"""The debug sessions of a job's ranks as one group: a stop in any rank stops all ranks, and resuming one resumes all.

Each session has a member in its adapter's process, which sees when its rank's process stops and when it runs. A change that no
member has caused is the user's or a breakpoint's. It becomes a command, "stop" or "go", with a number one greater than the
last, and is sent to the other members. The greatest command wins (of the same number, "stop"), and every member brings its
process to the state that the greatest command asks for. So commands that cross end in the same state everywhere.

A member learns of stops from a stop hook, which lldb calls for all but interrupts. It polls for the rest. A listener would be
simpler, but lldb takes the process's state from every event that any listener removes: if that happens late, an adapter finds
the process running that has just stopped, and does not report the stop.

A message between members has all that its sender knows, so that a lost or late one does no harm.
"""
import collections, ctypes, json, os, signal, threading, time, traceback
import lldb
from ddp_mail import Mail
from ddp_names import is_panic
from ddp_steps import Place, StepLog, step, step_own

STOP, GO = "stop", "go"


def _factor():
    """By which a slow or busy machine makes the next three times longer: DDP_DEBUG_PATIENCE in the environment of the adapter."""
    text = os.environ.get("DDP_DEBUG_PATIENCE", "")
    try:
        factor = float(text or 1)
    except ValueError:
        factor = 0
    if not 0 < factor <= 1000:
        print(f"ddp: invalid DDP_DEBUG_PATIENCE `{text}`: expected a number from 1 to 1000")
        return 1
    return factor


FACTOR = _factor()
# Seconds that a rank has to reach its own breakpoint before it is interrupted: while it sleeps, as in a collective, and while
# it is busy, as on a machine with too few cores.
PATIENCE, BUSY_PATIENCE = 0.1 * FACTOR, 0.6 * FACTOR
# Seconds that a rank waits where it has ended its step for the rank whose step it has followed. Then it continues: the other one
# may be in the next iteration of the loop, and wait for this one there.
ARRIVAL = 0.3 * FACTOR
# Seconds between two looks at a process that has to stop, or may be resumed.
PERIOD = 0.02
# Seconds that a process may be stopped without a call of the hook: lldb evaluates a condition, or the stop has no reason.
UNHOOKED = 1
# Seconds that the adapter has to read the reason of a stop from the threads before the process is resumed.
LOOK = 0.05
# Seconds after which an interrupt or a message is sent again.
AGAIN = 1
RESEND = 0.05

# Reasons of stops at the end of a step.
STEPS = (lldb.eStopReasonTrace, lldb.eStopReasonPlanComplete)

members = {}      # by the debugger's ID
questions = {}    # what ranks may ask each other, by name: functions of (member, question), which return the answer


class Command(collections.namedtuple("Command", "number what rank why step at")):
    """`why`: what stopped the rank that issued it, for people. `step`: of "go", how it was resumed (over, in, out; None:
    continued); of "stop", whether a step has ended. `at`: where its main thread stepped, as [top, own] of a `Place`; with
    None for `top`, it stepped in the user's own code from inside of what that has called."""

    def key(self):
        return self.number, self.what == STOP, self.rank


class Mode(collections.namedtuple("Mode", "number rank on only")):
    """`on`: whether ranks follow each other; `only`: the one rank that moves, if one was chosen."""

    def key(self):
        return self.number, self.rank


class Member:
    """A rank's session in the group. `running`: its process already runs, with its breakpoints set."""

    def __init__(self, debugger, folder, rank, running=False):
        self.debugger, self.rank, self.mail = debugger, rank, Mail(folder, rank)
        self.command = Command(0, GO, rank, None, None, None)
        self.mode = Mode(0, rank, True, None)
        self.process, self.pid = None, None
        # Nothing is obeyed before the process runs for the first time: the adapter has not set the breakpoints yet.
        self.joined = running
        self.state, self.since = (GO, time.monotonic()) if running else (None, 0)
        self.place = None      # where the main thread has stopped
        self.refused = None    # the thread of a step that lldb has refused to take
        self.asked = None      # the kind of the step that the user has asked for through `step`
        self.heard = 0         # when the command arrived
        self.seen = None       # the process's stop ID, when it ran at the last look although it was stopped before
        self.unhooked = None   # since when the process is stopped without a call of the hook
        self.slept = False     # whether the main thread slept at the last look
        self.halting = None    # when an interrupt was sent that has not stopped the process yet
        self.stepping = None   # the thread that takes a step
        self.pending = collections.deque()    # steps of other ranks that this rank has to follow: (kind, place)
        self.follower = False  # this rank's step follows another rank's
        self.arrived = None    # the number of the command whose step this rank has followed to its end
        self.unsent = False
        self.console, self.number = None, 0    # the mail for answers to questions, and how many questions were asked
        self.steps = StepLog()
        self.sources = os.path.abspath(os.path.join(folder, *[os.pardir] * 4))    # of PROJECT/.ddp/debug/GROUP/ATTEMPT
        self.todo, self.look_at, self.alive = collections.deque(), 0, True
        members[debugger.GetID()] = self
        threading.Thread(target=self._run, daemon=True).start()

    def post(self, function, *args):
        """Calls a function in the member's thread, which all its state belongs to."""
        self.todo.append((function, args))
        self.mail.wake()

    def _run(self):
        self.mail.send({"hello": True, **self._known()})
        while self.alive:
            try:
                self._turn()
            except Exception:    # a group without this rank would stay stopped
                self._log(traceback.format_exc())
                print(f"ddp: {traceback.format_exc()}", flush=True)
                time.sleep(AGAIN)

    def _turn(self):
        message = self.mail.receive(max(0.001, self.look_at - time.monotonic()))
        if message:
            self._receive(message)
        while self.todo:
            function, args = self.todo.popleft()
            function(*args)
        self._look()
        if self.alive:
            self._settle()

    def _log(self, *words):
        """Writes to the file PREFIX.RANK, if DDP_DEBUG_GROUP_LOG=PREFIX is in the adapter's environment."""
        if prefix := os.environ.get("DDP_DEBUG_GROUP_LOG"):
            with open(f"{prefix}.{self.rank}", "a") as file:
                print(f"{time.monotonic():.3f}", *words, file=file)

    # --- among the members --------------------------------------------------------------------------------------------

    def _known(self):
        return {"from": self.rank, "command": self.command, "mode": self.mode}

    def _send(self):
        self.unsent = not self.mail.send(self._known())

    def _receive(self, message):
        if "say" in message:
            print(message["say"], flush=True)
            return
        if "break" in message:
            text = self.break_at(message["break"])
            self.mail.send({"say": f"rank {self.rank}: {text}"}, to=message["from"])
            return
        if "ask" in message:
            self._answer(message)
            return
        mode, command = Mode(*message["mode"]), Command(*message["command"])
        self._log("received", command, mode)
        if mode.key() > self.mode.key():
            self.mode = mode
        if command.key() > self.command.key():
            self.command, self.heard = command, time.monotonic()
            if command.what == GO:
                if not command.step:
                    self.pending.clear()
                elif self.joined:    # also if a "stop" comes before this rank has moved
                    self.pending.append((command.step, command.at))
        if message.get("hello"):
            self.mail.send(self._known(), to=message["from"])

    def ask(self, asked, limit):
        """Asks other ranks, each a question of its own. Returns the answers by rank, without those of ranks that do not answer
        within `limit` seconds. The caller's thread receives them: lldb-dap 21 and newer hold lldb's lock during a command of
        the console, and the member's thread waits for that lock."""
        if self.console is None:
            self.console = Mail(self.mail.path, f"{self.rank}-console")
        self.number += 1
        answers, unsent, end = {}, set(asked), time.monotonic() + limit
        while len(answers) < len(asked) and (left := end - time.monotonic()) > 0:
            for rank in sorted(unsent):
                if self.mail.send({"ask": asked[rank], "id": self.number, "from": self.console.name}, to=rank):
                    unsent.discard(rank)
            message = self.console.receive(min(left, RESEND) if unsent else left)
            if message and message["id"] == self.number:
                answers[message["from"]] = message["answer"]
        return answers

    def _answer(self, message):
        question = message["ask"]
        answer = questions[question["what"]](self, question)
        for _ in range(20):
            if self.mail.send({"answer": answer, "id": message["id"], "from": self.rank}, to=message["from"]):
                return
            time.sleep(RESEND)

    def _issue(self, what, why=None, step=None, at=None):
        self.command, self.heard = Command(self.command.number + 1, what, self.rank, why, step, at), time.monotonic()
        self._log("issued", self.command)
        self._send()

    def _set_mode(self, on, only):
        self.mode = Mode(self.mode.number + 1, self.rank, on, only)
        self._send()

    def follows(self):
        return self.mode.on and self.mode.only is None

    # --- what users ask for in the debug console ----------------------------------------------------------------------

    def switch(self, on):
        self._set_mode(on, None)
        if on:
            self._issue(self.state or GO, f"rank {self.rank} is stopped")

    def hold_others(self, rank):
        self._set_mode(True, rank)

    def stop_all(self):
        self._set_mode(True, None)
        self._issue(STOP, f"rank {self.rank} asked for it")

    def go(self):
        if self.mode.only is not None:
            self._set_mode(self.mode.on, None)
        self._issue(GO)

    def step(self, kind):
        """A step in the user's own code, from wherever the main thread was interrupted. (In the adapter's thread.)"""
        if self.place is None or self.state != STOP:
            return lldb.SBError("the rank is running")
        self.asked = kind
        for _ in range(20):
            error = step_own(self._main(), self.place, kind)
            self._log("steps", kind, self.place.plain(), error)
            if error.Success() or self.state != STOP:
                return error
            self.refused = self.process.GetProcessID()    # its plan is there all the same
            time.sleep(PERIOD)    # lldb refuses to resume a process that another thread looks at
        self.asked = None
        return error

    def break_at(self, place):
        """Sets a breakpoint at `FILE:LINE` or on a function, in this rank only. Describes it."""
        target = self.debugger.GetSelectedTarget()
        file, _, line = place.rpartition(":")
        if file and line.isdigit():
            breakpoint = target.BreakpointCreateByLocation(file, int(line))
        else:
            breakpoint = target.BreakpointCreateByName(place)
        count = breakpoint.GetNumLocations()
        if not count:
            target.BreakpointDelete(breakpoint.GetID())
            return f"no code at {place}"
        return f"breakpoint {breakpoint.GetID()} at {place}" + (f" ({count} locations)" if count > 1 else "")

    # --- the process --------------------------------------------------------------------------------------------------

    def stopped(self, process, reasons):
        """The hook's call at a stop, before the adapter reports it."""
        if not self.joined:
            if all(_is_interrupt(*reason[1:]) for reason in reasons):    # that of attaching
                return
            self.joined, self.state = True, GO    # it has run between two looks
        self.process = process
        main = self._main()
        place = Place(main, self.sources) if is_panic(main.GetFrameAtIndex(0)) else None
        report_to_adapter("why", why=None)
        if place:
            report_to_adapter("fold", **place.fold(main))
        self.post(self._has_stopped, reasons)

    def _look(self):
        """Whether the process has been resumed, or has left."""
        process = self.process or self.debugger.GetSelectedTarget().GetProcess()
        state, now = process.GetState(), time.monotonic()
        if state == lldb.eStateRunning:
            self.unhooked = None
            self.process = process
            if self.state != GO and self._runs_on(process):
                self.state, self.since = GO, now
                self._has_resumed()
            return
        self.seen = None
        if state in (lldb.eStateExited, lldb.eStateDetached):
            if self.joined:
                self.leave()
        elif state == lldb.eStateStopped and self.joined and self.state == GO:
            self.unhooked = self.unhooked or now
            reasons = _reasons(process)
            if now - self.unhooked > UNHOOKED or reasons and all(_is_interrupt(*reason[1:]) for reason in reasons):
                self._has_stopped(reasons)

    def _runs_on(self, process):
        """Whether the process also ran at the last look, and not only a function that lldb calls."""
        seen, self.seen = self.seen, process.GetStopID(True)
        return seen == self.seen and not self.steps.is_calling()

    def _main(self):
        return self.process.GetThreadByID(self.process.GetProcessID())

    def _has_resumed(self):
        main = self.process.GetProcessID()
        taken = self.steps.take(_threads(main))
        at = self.place.plain() if self.place else None
        if self.asked:
            taken, at, self.asked = (self.asked, main), [None, self.place.own], None
        if not self.joined:
            self.joined = True
        else:
            self.stepping, self.follower = taken and taken[1], False
            self.pending.clear()
            if self.follows() and self.command.what != GO:
                self._issue(GO, None, taken and taken[0], at if taken and taken[1] == main else None)
            elif self.mode.on and self.mode.only not in (None, self.rank):
                print(f"ddp: only rank {self.mode.only} moves; `ddp go` lets all ranks continue", flush=True)

    def _has_stopped(self, reasons):
        if self.state == STOP:    # it was resumed between two looks
            self._has_resumed()
        self.state, self.since, self.unhooked, self.pid = STOP, time.monotonic(), None, self.process.GetProcessID()
        own = [reason for reason in reasons if not _is_interrupt(*reason[1:])]
        halted, self.halting = self.halting is not None and not own, None
        main = self._main()
        self.place = Place(main, self.sources)
        if not own:
            report_to_adapter("fold", **self.place.fold(main))
        self.steps.skip()
        self._log("stopped", "by interrupt" if halted else reasons, self.place.plain())
        if self.refused is not None or halted and self.stepping is not None:
            self._discard_step(self.stepping if self.refused is None else self.refused)
        elif own and self.stepping is None and all(reason in STEPS for _, reason, _ in own):
            # The end of a step that nobody has taken since the last stop: of one that lldb has refused, but planned.
            self._discard_step(own[0][0])
        if not halted:
            stepped = bool(own) and all(reason == lldb.eStopReasonPlanComplete for _, reason, _ in own)
            if stepped and self.follower:    # that the rank whose step it follows ends its own
                self.arrived = self.command.number
            elif self.follows() and self.command.what != STOP:
                self._issue(STOP, self._describe([self.process.GetThreadByID(thread) for thread, _, _ in own]), stepped)
        self.stepping = self.refused = None

    def _describe(self, threads):
        """What has stopped this rank, for the other ranks' call stacks."""
        for thread in threads:
            frame = thread.GetFrameAtIndex(0)
            if is_panic(frame):
                return f"rank {self.rank} panicked"
            if thread.GetStopReason() == lldb.eStopReasonSignal:
                return f"rank {self.rank} received {thread.GetStopDescription(64).replace('signal ', '')}"
            line = frame.GetLineEntry()
            if line.IsValid():
                return f"rank {self.rank} stopped at {line.GetFileSpec().GetFilename()}:{line.GetLine()}"
        return f"rank {self.rank} stopped"

    def _discard_step(self, thread):
        """Otherwise the next *Continue* would end where a step would have ended that was interrupted or refused."""
        context = lldb.SBExecutionContext(self.process.GetThreadByID(thread))
        result = lldb.SBCommandReturnObject()
        self.debugger.GetCommandInterpreter().HandleCommand("thread plan discard 1", context, result)

    def _wanted(self):
        if not self.mode.on:
            return None
        if self.mode.only is not None:
            return None if self.mode.only == self.rank else STOP
        return self.command.what

    def _settle(self):
        """Brings the process to the state that is wanted, unless it is there or on its way."""
        now = time.monotonic()
        if self.unsent:
            self._send()
        self.look_at = now + (RESEND if self.unsent else PERIOD)
        if not self.joined:
            return
        if self.pending and self.state == STOP and self.follows() and self._follow():
            return
        wanted = self._wanted()
        if wanted == STOP and self.state == GO and self.unhooked is None and (self.halting is None or now - self.halting >= AGAIN):
            start = max(self.heard, self.since)
            if self._is_time(start + PATIENCE) and (self._is_idle(now) or self._is_time(start + BUSY_PATIENCE)):
                report_to_adapter("why", why=self.command.why if self.mode.only is None else f"only rank {self.mode.only} moves")
                self._log("interrupts")
                self.halting = now
                self.process.SendAsyncInterrupt()
        elif wanted == GO and self.state == STOP:
            if self.arrived != self.command.number or self._is_time(self.since + ARRIVAL):
                self._resume(self.process.Continue)

    def _is_idle(self, now):
        """Whether the main thread sleeps, and is not about to end a step that another rank has ended, too."""
        if self.stepping is not None and self.command.step:    # of a stop, `step` says whether it ended a step
            return False
        self.look_at = min(self.look_at, now + PERIOD)
        try:
            with open(f"/proc/{self.process.GetProcessID()}/stat") as file:
                asleep = file.read().rpartition(")")[2].split()[0] == "S"
        except OSError:    # it has just ended
            return False
        slept, self.slept = self.slept, asleep
        return asleep and slept

    def _is_time(self, when):
        self.look_at = min(self.look_at, when)
        return time.monotonic() >= when

    def _follow(self):
        """Takes the step that another rank has taken at the place where this rank is. Returns whether it does."""
        kind, place = self.pending[0]
        main, (top, own) = self._main(), place or (None, None)
        if top and top == self.place.top:
            take = lambda: step(main, kind)
        elif own and own == self.place.own and top in (None, own):
            # One of the two, or both, were interrupted inside of what this line has called.
            take = lambda: step_own(main, self.place, kind)
        else:
            self.pending.clear()
            return False
        if self._resume(take):
            self._log("follows", kind, place)
            self.pending.popleft()
            self.stepping, self.follower = main.GetThreadID(), True
        return True

    def _resume(self, resume):
        """Resumes the process unless it is too early. Returns whether it did."""
        # (While a script's command runs, lldb waits for the next stop itself, and hides it from the adapter.)
        if not self._is_time(self.since + LOOK) or not self.debugger.GetAsync():
            return False
        report_to_adapter("why", why=None)
        error = resume()
        self._log("resumes", error)
        if error.Fail():    # the user resumes it at the same time
            return False
        self.state, self.since = GO, time.monotonic()
        return True

    def leave(self):
        # If it was resumed, and ended between two looks, the others continue. If it was killed at a breakpoint, they stay.
        if self.state == STOP and self.follows() and self.steps.has_resumed(self.pid):
            self._issue(GO)
        if self.mode.only == self.rank:    # else the others would be held for good
            self._set_mode(True, None)
        self.alive = False
        members.pop(self.debugger.GetID(), None)
        for mail in (self.console, self.mail):
            if mail is not None:
                mail.close()


def _leave_all(_):
    for member in list(members.values()):
        member.leave()


# An adapter may exit, with its process, before its member has seen that. (Python's own `atexit` is never called in lldb.)
at_exit = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_leave_all)
ctypes.CDLL(None).__cxa_atexit(at_exit, None, None)


class StopHook:
    """What lldb calls at each stop that it reports."""

    def __init__(self, target, _arguments, _dict):
        self.debugger = target.GetDebugger().GetID()

    def handle_stop(self, context, _stream):
        process = context.GetProcess()
        member = members.get(process.GetTarget().GetDebugger().GetID())
        if member is not None:
            member.stopped(process, _reasons(process))
        return True


def _threads(pid):
    """A process's threads. (lldb 22 lists none while the process runs.)"""
    try:
        return {int(thread) for thread in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return set()


def _reasons(process):
    """Why threads have stopped, as (thread, reason, first datum)."""
    threads = [thread for thread in process if thread.GetStopReason() not in (lldb.eStopReasonNone, lldb.eStopReasonInvalid)]
    return [(thread.GetThreadID(), thread.GetStopReason(), thread.GetStopReasonDataAtIndex(0)) for thread in threads]


def _is_interrupt(reason, datum):
    """Whether a thread was stopped by an interrupt, a member's or that of *Pause*."""
    return reason == lldb.eStopReasonSignal and datum == signal.SIGSTOP


def report_to_adapter(report, **more):
    """Tells cargo-ddp's relay, if the adapter runs under it, why the next interrupt comes ("why"), and which frames of the main
    thread to fold ("fold")."""
    descriptor = os.environ.get("DDP_ADAPTER_FD", "")
    if descriptor.isdigit():
        try:
            os.write(int(descriptor), json.dumps({"report": report, **more}).encode())
        except OSError:
            pass
