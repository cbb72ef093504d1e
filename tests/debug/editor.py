"""Acts like VS Code on launch.json, tasks.json and a debug adapter, without VS Code."""
import json, os, pty, re, subprocess, threading, time
from dap import Dap, DapError

PATIENCE = float(os.environ.get("DDP_TEST_PATIENCE", 240))    # seconds; the machine may be slow, and has libtorch's symbols to read


class TaskFailed(Exception):
    pass


class Session:
    """A debug session: its configuration, its adapter, and its events."""

    def __init__(self, editor, configuration, parent):
        self.editor, self.configuration, self.name, self.parent = editor, configuration, configuration["name"], parent
        self.stops, self.code, self.over, self.error, self.dap = [], None, False, None, None
        self.is_stopped = False
        self.started = time.monotonic()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        try:
            self._start()
            after = 0
            while True:
                event, after = self.dap.event("stopped", "continued", "exited", "terminated", after=after, timeout=3600)
                if event is None or event["event"] == "terminated":
                    return
                if event["event"] == "exited":
                    self.code = event["body"]["exitCode"]
                elif event["event"] == "continued":
                    self._note(False)
                elif event["body"]["reason"] != "entry":
                    with self.editor.changed:
                        self.stops.append({**event["body"], "at": event["at"]})
                    self._note(True)
        except (DapError, OSError) as err:
            self.error = err
        finally:
            if self.dap:
                self.dap.close()
            with self.editor.changed:
                self.over = True
                self.editor.changed.notify_all()

    def _note(self, is_stopped):
        with self.editor.changed:
            self.is_stopped = is_stopped
            self.editor.changed.notify_all()

    def _start(self):
        editor = self.editor
        configuration = editor.adapter.arguments(self.configuration, editor.folder)
        self.dap = dap = Dap(editor.adapter, self.configuration, editor.folder, lambda asked: editor.child(asked, self))
        able = dap.call("initialize", clientID="vscode", adapterID=editor.adapter.kind, pathFormat="path", linesStartAt1=True,
                        columnsStartAt1=True, supportsVariableType=True, supportsMemoryReferences=True,
                        supportsRunInTerminalRequest=True, supportsStartDebuggingRequest=True)
        own = ("preLaunchTask", "presentation")
        request = dap.send(configuration["request"], **{key: configuration[key] for key in configuration if key not in own})
        end = time.monotonic() + PATIENCE
        while dap.event("initialized", timeout=PATIENCE)[0] is None or time.monotonic() > end:
            dap.reply(request, PATIENCE)
        self.set_breakpoints()
        filters = [one["filter"] for one in able.get("exceptionBreakpointFilters", []) if one.get("default")]
        dap.call("setExceptionBreakpoints", PATIENCE, filters=filters)
        dap.call("configurationDone", PATIENCE)
        dap.reply(request, PATIENCE)

    def set_breakpoints(self):
        for path, breakpoints in self.editor.breakpoints.items():
            self.dap.call("setBreakpoints", PATIENCE, source={"path": path}, breakpoints=breakpoints)

    def frames(self):
        """The stack, innermost first."""
        thread = self.stops[-1]["threadId"]
        return self.dap.call("stackTrace", PATIENCE, threadId=thread, startFrame=0, levels=40)["stackFrames"]

    def variables(self, reference=None):
        """Name to (value, reference to its parts, type), of the innermost of several with one name. Without a reference, those of
        the frame that the editor would show."""
        if reference is None:
            frame = next(frame for frame in self.frames() if frame.get("presentationHint") != "label")
            scopes = self.dap.call("scopes", PATIENCE, frameId=frame["id"])["scopes"]
            reference = scopes[0]["variablesReference"]
        found = self.dap.call("variables", PATIENCE, variablesReference=reference)["variables"]
        # lldb-dap says `x @ main.rs:67` when there are several; CodeLLDB adds how a value is without its formatter.
        return {v["name"].split(" @")[0]: (v["value"], v["variablesReference"], v.get("type", "")) for v in found
                if v["name"] != "[raw]"}

    def resume(self, request):
        """*Continue* or a step (`next`, `stepIn`, `stepOut`)."""
        self._note(False)
        self.dap.call(request, PATIENCE, threadId=self.stops[-1]["threadId"])

    def try_to(self, request):
        """As `resume` or `pause`, without waiting; the adapter may refuse it."""
        if request != "pause":
            self._note(False)
        self.dap.send(request, threadId=self.stops[-1]["threadId"])

    def go_on(self):
        self.resume("continue")

    def pause(self):
        self.dap.call("pause", PATIENCE, threadId=0)

    def console(self, command):
        """What a user types in the debug console; what it prints."""
        frame = {"frameId": self.frames()[0]["id"]} if self.is_stopped else {}
        before = len(self.text())
        try:
            result = self.dap.call("evaluate", PATIENCE, expression=command, context="repl", **frame)["result"]
        except DapError as err:    # of CodeLLDB
            result = str(err)
        if not result and self.editor.adapter.kind != "lldb-dap":    # CodeLLDB prints the result, maybe later
            end = time.monotonic() + 2
            while len(self.text()) == before and time.monotonic() < end:
                time.sleep(0.02)
            time.sleep(0.2)
            result = self.text()[before:]
        return result

    def attaches(self):
        return self.configuration["request"] == "attach" and (self.parent is None or self.parent.attaches())

    def stop(self):
        """Stop, of which VS Code makes Disconnect where a session attaches, and so does the one that has opened it."""
        self.dap.close(kill=not self.attaches())

    def pid(self):
        """The process that was launched. CodeLLDB's terminal holds another, and its console says it."""
        launched = re.search(r"Launched process (\d+)", self.text())
        return int(launched[1]) if launched else self.dap.terminal.pid

    def wait_for_text(self, pattern):
        """Waits for output that matches: a program's last output may arrive after its end is known."""
        self.editor.wait(repr(pattern), lambda: re.search(pattern, self.text()), 30)

    def text(self):
        return self.dap.text() if self.dap else ""

    def say(self):
        return f"--- {self.name}: stops {[stop.get('description', stop['reason']) for stop in self.stops]}, code {self.code}, over {self.over}, " \
               f"error {self.error}\n{self.text()}"


def generate(folder, nproc, adapter):
    """The `.vscode/` of a user of this adapter."""
    launcher = os.environ.get("DDP_TEST_CARGO_DDP") or os.path.join(folder, ".ddp/cargo-ddp")
    command = [launcher, "ddp", "vscode", "--debugger", adapter.name, "--nproc", str(nproc)]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


class Editor:
    def __init__(self, folder, adapter):
        self.folder, self.adapter = folder, adapter
        self.sessions, self.breakpoints, self.changed = [], {}, threading.Condition()
        self.step = ""    # what the user types into the input box for a step
        self.answer = None    # a question of a task's, and what its user types, from all that it has printed

    # --- actions of the user -----------------------------------------------------------------------------------------

    def set_breakpoint(self, path, line, **more):
        self.breakpoints.setdefault(os.path.join(self.folder, path), []).append({"line": line, **more})

    def clear_breakpoints(self):
        self.breakpoints = {path: [] for path in self.breakpoints}
        for session in self.sessions:
            if not session.over:
                session.set_breakpoints()

    def f5(self, name, **changes):
        """Starts the configuration or compound of this name; `changes` replace the configurations' attributes."""
        launch = self.json("launch.json")
        configurations = {conf["name"]: conf for conf in launch["configurations"]}
        compound = next((c for c in launch.get("compounds", []) if c["name"] == name), None)
        names = compound["configurations"] if compound else [name]
        for task in [compound and compound.get("preLaunchTask")] + [configurations[n].get("preLaunchTask") for n in names]:
            if task:
                self.run_task(task)
        return [self._open({**self.resolve(configurations[n]), **changes}) for n in names]

    def run_task(self, label):
        task = self.resolve(next(t for t in self.json("tasks.json")["tasks"] if t["label"] == label))
        env = {**os.environ, **task.get("options", {}).get("env", {})}
        terminal, inside = pty.openpty()
        process = subprocess.Popen([task["command"], *task.get("args", [])], cwd=self.folder, env=env, stdin=inside, stdout=inside,
                                   stderr=inside)
        os.close(inside)
        text = ""
        while chunk := _read(terminal):
            text += chunk
            if self.answer and text.endswith(self.answer[0]):
                os.write(terminal, self.answer[1](text).encode() + b"\n")
        os.close(terminal)
        if process.wait():
            raise TaskFailed(f"{label} ended with {process.returncode}:\n{text}")

    def child(self, arguments, parent):
        """A session requests another one."""
        self._open({**arguments["configuration"], "request": arguments["request"], "type": self.adapter.kind}, parent)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def wait(self, what, done, timeout=PATIENCE):
        end = time.monotonic() + timeout
        with self.changed:
            while not done():
                self.changed.wait(0.1)
                assert time.monotonic() < end, f"no {what} in {timeout} s\n{self.say()}"

    def workers(self):
        return sorted((s for s in self.sessions if " rank " in s.name), key=lambda s: s.name)

    def stopped(self, count, times=1):
        """Waits until `count` live workers have stopped (each for the n-th time), and returns them."""
        living = lambda: [s for s in self.workers() if not s.over and len(s.stops) >= times]
        self.wait(f"{count} workers at a breakpoint", lambda: len(living()) >= count)
        return living()

    def living(self):
        return [session for session in self.workers() if not session.over]

    def all_stopped(self, timeout=PATIENCE):
        """Waits until all ranks are stopped, and returns them."""
        self.wait("stop of all ranks", lambda: self.living() and all(s.is_stopped for s in self.living()), timeout)
        return self.living()

    def all_running(self, timeout=PATIENCE):
        self.wait("all ranks to run", lambda: not any(s.is_stopped for s in self.living()), timeout)

    def all_over(self):
        self.wait("end of all sessions", lambda: all(s.over for s in self.sessions))
        return self.sessions

    def close(self):
        for session in self.sessions:
            if session.dap:
                session.dap.close()

    def say(self):
        return "\n".join(session.say() for session in self.sessions)

    # ----------------------------------------------------------------------------------------------------------------

    def _open(self, configuration, parent=None):
        session = Session(self, configuration, parent)
        with self.changed:
            self.sessions.append(session)
            self.changed.notify_all()
        return session

    def json(self, name):
        with open(os.path.join(self.folder, ".vscode", name)) as file:
            text = file.read()
        strings_kept = lambda match: match.group(1) or ""
        text = re.sub(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', strings_kept, text, flags=re.S)
        return json.loads(re.sub(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', strings_kept, text))

    def resolve(self, value):
        if isinstance(value, str):
            value = value.replace("${workspaceFolder}", self.folder).replace("${input:ddpStep}", self.step)
            # lldb's own; VS Code leaves it unchanged.
            assert "${" not in value.replace("${script.frame:", ""), f"unknown variable in {value}"
            return value
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        return value


def _read(terminal):
    """The next output; empty when the last program in the terminal has ended."""
    try:
        return os.read(terminal, 1 << 16).decode(errors="replace")
    except OSError:
        return ""
