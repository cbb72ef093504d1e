"""A client of the Debug Adapter Protocol, like an editor: one adapter process, one session."""
import fcntl, json, os, pty, subprocess, termios, threading, time


class DapError(Exception):
    pass


class Dap:
    """Starts `adapter` for a configuration and talks to it. `on_child(arguments)` is called when it asks for another
    session."""

    def __init__(self, adapter, configuration, cwd, on_child):
        self.name, self.on_child = configuration["name"], on_child
        self.process, self.to, self.from_, others, self.hang_up = adapter.start(configuration, cwd)
        self.changed, self.writing = threading.Condition(), threading.Lock()
        self.sent, self.replies, self.events, self.output, self.ended = 0, {}, [], [], False
        self.terminal = None    # the process that runs in the terminal
        threading.Thread(target=self._read, daemon=True).start()
        for stream in others:
            threading.Thread(target=self._read_words, args=(stream,), daemon=True).start()

    # --- messages -------------------------------------------------------------------------------------------------

    def send(self, command, **arguments):
        return self._send({"type": "request", "command": command, "arguments": arguments})

    def call(self, command, timeout=120, **arguments):
        return self.reply(self.send(command, **arguments), timeout)

    def reply(self, number, timeout=120):
        reply = self._wait(lambda: self.replies.get(number), timeout, f"a reply to request {number}")
        if not reply["success"]:
            raise DapError(f"{self.name}: {reply['command']}: {reply.get('message')} {json.dumps(reply.get('body'))}")
        return reply.get("body") or {}

    def event(self, *names, after=0, timeout=120):
        """The first event of these names from index `after` on, and the index behind it. Once the adapter has ended,
        and there is none, (None, after)."""
        def find():
            for i in range(after, len(self.events)):
                if self.events[i]["event"] in names:
                    return self.events[i], i + 1
            return (None, after) if self.ended else None
        return self._wait(find, timeout, f"an event of {names}", even_at_end=True)

    def text(self):
        return "".join(self.output)

    def close(self, kill=True):
        """Ends the session and the adapter, and what it debugs."""
        try:
            self.call("disconnect", 30, terminateDebuggee=kill)
            self.hang_up()
        except (OSError, ValueError, DapError):
            pass    # it has ended
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _wait(self, find, timeout, what, even_at_end=False):
        end = time.monotonic() + timeout
        with self.changed:
            while True:
                found = find()
                if found is not None:
                    return found
                if self.ended and not even_at_end:
                    raise DapError(f"{self.name}: the adapter ended ({self.process.poll()}); wanted {what}\n{self.text()}")
                if not self.changed.wait(max(0.01, end - time.monotonic())) and time.monotonic() >= end:
                    raise DapError(f"{self.name}: no {what} in {timeout} s\n{self.text()}")

    def _send(self, message):
        with self.writing:
            self.sent += 1
            data = json.dumps({**message, "seq": self.sent}).encode()
            self.to.write(b"Content-Length: %d\r\n\r\n" % len(data) + data)
            self.to.flush()
            return self.sent

    def _read(self):
        try:
            self._read_messages(self.from_)
        except OSError:
            pass    # the connection went with the adapter
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _read_messages(self, stream):
        while True:
            length = None
            while (line := stream.readline()).strip():
                key, _, value = line.partition(b":")
                if key.lower() == b"content-length" and value.strip():
                    length = int(value)
            text = stream.read(length) if length else b""
            if not line or len(text) != (length or -1):    # a cut-off frame: the adapter ended while writing
                return
            message = json.loads(text)
            if message["type"] == "request":
                threading.Thread(target=self._asked, args=(message,), daemon=True).start()
                continue
            with self.changed:
                if message["type"] == "response":
                    self.replies[message["request_seq"]] = message
                else:
                    message["at"] = time.monotonic()
                    self.events.append(message)
                    if message["event"] == "output":
                        self.output.append(message["body"]["output"])
                self.changed.notify_all()

    def _read_words(self, stream):
        for line in stream:
            self.output.append(line.decode(errors="replace"))

    # --- requests of the adapter to the editor -------------------------------------------------------------------------

    def _asked(self, message):
        answer = {"type": "response", "request_seq": message["seq"], "command": message["command"], "success": True}
        try:
            if message["command"] == "runInTerminal":
                answer["body"] = {"processId": self._run_in_terminal(message["arguments"])}
            elif message["command"] == "startDebugging":
                self.on_child(message["arguments"])
            else:
                raise DapError("unknown request " + message["command"])
        except Exception as err:
            answer.update(success=False, message=str(err))
        self._send(answer)

    def _run_in_terminal(self, arguments):
        env = {**os.environ, **(arguments.get("env") or {})}
        env = {name: value for name, value in env.items() if value is not None}
        master, slave = pty.openpty()    # as an integrated terminal: a controlling terminal of its own
        self.terminal = subprocess.Popen(arguments["args"], cwd=arguments.get("cwd") or None, env=env, stdin=slave,
                                         stdout=slave, stderr=slave, start_new_session=True,
                                         preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        threading.Thread(target=self._read_terminal, args=(master,), daemon=True).start()
        return self.terminal.pid

    def _read_terminal(self, master):
        try:
            while data := os.read(master, 4096):
                self.output.append(data.decode(errors="replace"))
        except OSError:
            pass    # the terminal's last process has ended
        self.terminal.wait()
