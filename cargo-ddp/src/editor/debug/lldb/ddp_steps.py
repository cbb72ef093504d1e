"""Steps: which one a user has taken, and taking the same one in another rank."""
import json, os, re, tempfile
import lldb
from ddp_names import rust_name

OVER, INTO, OUT = "over", "in", "out"
# What the log says: a plan for a step; a plan to call a function of the program, and its end (lldb reports some plans that it
# discards together in one line); a thread that is resumed.
LINE = re.compile(r'PushPlan\(.*?\): "(?:Stepping (?P<kind>over|in|out)\b.*?tid = 0x(?P<stepping>[0-9a-f]+)|(?P<call>Thread plan to call ))'
                  r'|(?P<end>Popping plan: "Call function plan|Discarding )|WillResume .*?tid = 0x(?P<resumed>[0-9a-f]+)')
LARGEST = 1 << 20    # bytes of log after which the file starts again
DEEPEST = 200        # frames
log = None           # the file of lldb's log of steps: it has one for all debuggers of the process


class StepLog:
    """The steps of one process's threads. lldb does not report to listeners how a process was resumed. But it logs the plan
    that a step pushes on its thread, whichever editor asked for it."""

    def __init__(self):
        global log
        self.read, self.steps, self.resumed, self.calling = 0, [], set(), False
        if log is None:
            log, path = tempfile.mkstemp(prefix="ddp-steps-")
            result = lldb.SBCommandReturnObject()
            # By another debugger: the adapter's own writes logs to the debug console. With -a, so that the file can be truncated.
            lldb.SBDebugger.Create(False).GetCommandInterpreter().HandleCommand(f"log enable lldb step -a -f {path}", result)
            os.unlink(path)
            if not result.Succeeded():
                print(f"ddp: other ranks will not follow steps: {result.GetError()}")

    def skip(self):
        """Forgets what was logged so far: the steps that a step consists of."""
        self._read()
        self.steps, self.resumed = [], set()

    def take(self, threads):
        """The first step of one of these threads since the last call, as (kind, thread), or None."""
        self._read()
        steps = self.steps
        self.steps, self.resumed = [], set()
        return next((step for step in steps if step[1] in threads), None)

    def has_resumed(self, thread):
        """Whether this thread was resumed since the last call of `skip` or `take`."""
        self._read()
        return thread in self.resumed

    def is_calling(self):
        """Whether lldb runs a function of the stopped process. An adapter does at the end of a stack, and to evaluate."""
        self._read()
        return self.calling

    def _read(self):
        size = os.fstat(log).st_size
        if size < self.read:    # truncated
            self.read = 0
        text = os.pread(log, min(size - self.read, LARGEST), self.read).decode(errors="replace")
        self.read = size
        if size > LARGEST:
            os.ftruncate(log, 0)
            self.read = 0
        for line in LINE.finditer(text):
            if line["kind"]:
                self.steps.append((line["kind"], int(line["stepping"], 16)))
            elif line["resumed"]:
                if not self.calling:
                    self.resumed.add(int(line["resumed"], 16))
            else:
                self.calling = bool(line["call"])


class Place:
    """Where a thread has stopped: its innermost frame (`top`), and the innermost one in the user's own code (`own`), each as
    [function, file, line], or None without debug information."""

    def __init__(self, thread, sources):
        self.frame, self.own = None, None
        self.top = _line(thread.GetFrameAtIndex(0))
        for index in range(min(thread.GetNumFrames(), DEEPEST)):
            frame = thread.GetFrameAtIndex(index)
            line = _line(frame)
            if line and is_own(line[1], sources):
                self.frame, self.own = index, line
                break

    def plain(self):
        return [self.top, self.own]

    def fold(self, thread):
        """The frames above the user's own: their number, and the function that the user's code has called."""
        if not self.frame:
            return {"thread": thread.GetThreadID(), "frames": 0, "called": ""}
        called = thread.GetFrameAtIndex(self.frame - 1)
        return {"thread": thread.GetThreadID(), "frames": self.frame, "called": rust_name(called)}


def is_own(path, sources):
    """Whether a file is one of the user's own."""
    inside = path[len(sources) + 1:].split("/", 1)[0] if path.startswith(sources + "/") else None
    return inside is not None and inside not in ("target", "vendor", ".ddp")


def _line(frame):
    entry = frame.GetLineEntry()
    return [frame.GetFunctionName(), str(entry.GetFileSpec()), entry.GetLine()] if entry.IsValid() else None


def step(thread, kind):
    """Steps in the innermost frame."""
    error = lldb.SBError()
    if kind == OVER:
        thread.StepOver(lldb.eOnlyDuringStepping, error)
    elif kind == INTO:
        thread.StepInto(None, lldb.LLDB_INVALID_LINE_NUMBER, error, lldb.eOnlyDuringStepping)
    else:
        thread.StepOut(error)
    return error


def step_own(thread, place, kind):
    """Steps in the innermost frame of the user's own code: to its next line, or out of its function. A thread that was
    interrupted is somewhere in a function that this frame has called, and can't step into that."""
    if place.frame is None or place.frame == 0:
        return step(thread, kind)
    error = lldb.SBError()
    if kind == OUT:
        thread.StepOutOfFrame(thread.GetFrameAtIndex(place.frame), error)
    else:
        arguments = lldb.SBStructuredData()
        arguments.SetFromJSON(json.dumps({"frame": place.frame}))
        error = thread.StepUsingScriptedThreadPlan(f"ddp_debug.{__name__}.{NextOwnLine.__name__}", arguments, True)
    return error


class NextOwnLine:
    """A plan of a thread: back to a frame up the stack, and then on to that frame's next line."""

    def __init__(self, plan, arguments):
        self.plan, self.returned = plan, False
        plan.QueueThreadPlanForStepOut(arguments.GetValueForKey("frame").GetUnsignedIntegerValue() - 1)

    def explains_stop(self, _event):
        return False

    def should_stop(self, _event):
        if not self.returned:
            self.returned = True
            line = self.plan.GetThread().GetFrameAtIndex(0).GetLineEntry()
            start, end = line.GetStartAddress(), line.GetEndAddress()
            self.plan.QueueThreadPlanForStepOverRange(start, end.GetFileAddress() - start.GetFileAddress())
            return False
        self.plan.SetPlanComplete(True)
        return True

    def should_step(self):
        return False

    def stop_description(self, stream):
        stream.Print("step over")
