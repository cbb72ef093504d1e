"""Acts like VS Code's C/C++ extension (cppdbg) on a configuration and gdb's machine interface."""
import fcntl, os, pty, re, shlex, subprocess, termios, threading, time


class MiError(Exception):
    pass


class Gdb:
    """gdb with a terminal for the program, and one configuration of launch.json."""

    def __init__(self, configuration, patience=240):
        self.configuration, self.name, self.patience = configuration, configuration["name"], patience
        self.changed, self.sent, self.replies, self.stops, self.output, self.ended = threading.Condition(), 0, {}, [], [], False
        master, slave = pty.openpty()
        # From the program's folder, in the terminal's session: src/MICore/UnixUtilities.cs of microsoft/MIEngine.
        self.process = subprocess.Popen(["gdb", "--interpreter=mi", "-nx", f"--tty={os.ttyname(slave)}"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=slave, cwd=os.path.dirname(configuration["program"]),
                                        start_new_session=True, text=True, bufsize=1,
                                        preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0))
        os.close(slave)
        for reader in (lambda: self._read_terminal(master), self._read):
            threading.Thread(target=reader, daemon=True).start()

    def launch(self, breakpoints=()):
        """The commands of MIEngine's GetInitializeCommands, in its order. None may fail here, not even
        those that MIEngine allows to fail."""
        conf = self.configuration
        for command in conf.get("setupCommands", []):
            self.call(command["text"])
        for command in ("set pagination off", "set debuginfod enabled off", "-gdb-set auto-solib-add on",
                        f"-environment-cd {conf['cwd']}", f"-file-exec-and-symbols \"{conf['program']}\""):
            self.call(command)
        if conf["args"]:
            self.call("-exec-arguments " + shlex.join(conf["args"]))
        entry = self.call("-break-insert -f main")["bkpt"]
        for variable in conf.get("environment", []):
            self.call(f"set env {variable['name']} {variable['value']}")
        for place in breakpoints:
            self.call(f"-break-insert -f {place}")
        self.call("-exec-run")
        stop = self.stopped()
        assert stop["frame"]["func"] == "main", self.say()
        self.call(f"-break-delete {entry['number']}")
        self.go_on()

    def go_on(self):
        self.stops.clear()
        self.call("-exec-continue")

    def stopped(self):
        """The next stop, or the program's end."""
        return self._wait(lambda: self.stops[0] if self.stops else None, "a stop")

    def wait_for_text(self, pattern):
        """Waits for output that matches: the program's last output may arrive after its end is known."""
        return self._wait(lambda: re.search(pattern, self.text()), repr(pattern))

    def variables(self):
        """Name to value, of the innermost frame."""
        thread = self.stops[0]["thread-id"]
        place = f"--thread {thread} --frame 0"
        names = [variable["name"] for variable in self.call(f"-stack-list-variables {place} 0")["variables"]]
        # The extension's request in every scope; of several variables with one name, the innermost is first.
        return {name: self.evaluate(name, place) for name in dict.fromkeys(names)}

    def evaluate(self, name, place):
        made = self.call(f'-var-create {place} - * "{name}"')
        return made["value"], made["name"]

    def children(self, variable):
        """Name to value of the first 10 parts of a variable."""
        found = self.call(f"-var-list-children --simple-values {variable} 0 10")
        return {child["exp"]: child.get("value") for _, child in found.get("children", [])}

    def call(self, command):
        with self.changed:
            self.sent += 1
            number = self.sent
        text = command if command.startswith("-") else f'-interpreter-exec console {_quoted(command)}'
        self.process.stdin.write(f"{number}{text}\n")
        self.process.stdin.flush()
        kind, values = self._wait(lambda: self.replies.get(number), f"an answer to {command}")
        if kind == "error":
            raise MiError(f"{self.name}: {command}: {values['msg']}\n{self.text()}")
        return values

    def close(self):
        """Stop: ends gdb and the program."""
        try:
            self.process.stdin.write("-gdb-exit\n")
            self.process.stdin.flush()
            self.process.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()

    def text(self):
        return "".join(self.output)

    def say(self):
        return f"--- {self.name}: {self.stops}\n{self.text()}"

    def _wait(self, find, what):
        end = time.monotonic() + self.patience
        with self.changed:
            while (found := find()) is None:
                if self.ended or time.monotonic() > end:
                    raise MiError(f"{self.name}: no {what}\n{self.text()}")
                self.changed.wait(0.2)
            return found

    def _read(self):
        for line in self.process.stdout:
            match = re.match(r"(\d*)([\^*])([a-z-]+),?(.*)", line)
            with self.changed:
                if match and match[2] == "^" and match[1]:
                    self.replies[int(match[1])] = match[3], _results(match[4])
                elif match and match[3] == "stopped":
                    self.stops.append(_results(match[4]))
                elif line[0] in "~&":
                    self.output.append(_string(line, 1)[0])
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _read_terminal(self, master):
        try:
            while data := os.read(master, 4096):
                self.output.append(data.decode(errors="replace"))
        except OSError:
            pass


# --- gdb's manual, "GDB/MI Output Syntax" -----------------------------------------------------------------------------

def _quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _results(text):
    return dict(_list(text, 0, "")[0]) if text else {}


def _value(text, at):
    if text[at] == '"':
        return _string(text, at)
    end = {"{": "}", "[": "]"}[text[at]]
    items, at = _list(text, at + 1, end)
    # A list of results stays one of pairs, unless their names say nothing.
    return (dict(items) if end == "}" else items), at


def _list(text, at, end):
    items = []
    while at < len(text) and text[at] != end:
        named = re.compile(r"([\w-]+)=").match(text, at)
        value, at = _value(text, named.end() if named else at)
        items.append((named[1], value) if named else value)
        at += text.startswith(",", at)
    return items, at + 1


def _string(text, at):
    match = re.compile(r'"((?:\\.|[^"\\])*)"').match(text, at)
    escapes = {"n": "\n", "t": "\t", "r": "\r", "e": "\x1b"}
    plain = re.sub(r"\\([0-7]{3}|.)", lambda m: chr(int(m[1], 8)) if len(m[1]) == 3 else escapes.get(m[1], m[1]), match[1])
    return plain, match.end()
