"""Datagrams between the debug sessions of a job's ranks, through sockets in a folder of the job's attempt."""
import json, os, socket, struct

# struct ucred of Linux: pid, uid, gid.
CREDENTIALS = struct.Struct("iII")


class Mail:
    """The members' sockets, in a folder that only its user can open. Each has a rank for its name, but for those that only
    receive answers."""

    def __init__(self, folder, name):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.path, self.name = folder, str(name)
        self.folder = os.open(folder, os.O_DIRECTORY | os.O_CLOEXEC)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._remove(self.name)
        self.socket.bind(self._address(self.name))

    def _address(self, name):
        # Through the open folder: an address has at most 107 bytes.
        return f"/proc/self/fd/{self.folder}/{name}"

    def _remove(self, name):
        try:
            os.unlink(name, dir_fd=self.folder)
        except FileNotFoundError:
            pass

    def ranks(self):
        return sorted(int(name) for name in os.listdir(self.folder) if name.isdigit())

    def send(self, message, to=None):
        """Sends to one rank (or name), or to all others. Returns whether all have received it."""
        complete = True
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            for rank in self.ranks() if to is None else [to]:
                if str(rank) != self.name or to is not None:
                    try:
                        sender.sendto(json.dumps(message).encode(), self._address(str(rank)))
                    except ConnectionRefusedError:    # its adapter was killed
                        self._remove(str(rank))
                    except FileNotFoundError:
                        pass    # it has left
                    except BlockingIOError:
                        complete = False
        return complete

    def receive(self, timeout):
        """The next message, or None: none in this time, or one of another user."""
        self.socket.settimeout(timeout)
        try:
            data, ancillary, _, _ = self.socket.recvmsg(1 << 16, socket.CMSG_SPACE(CREDENTIALS.size))
        except (TimeoutError, socket.timeout):
            return None
        for _, kind, value in ancillary:
            if kind == socket.SCM_CREDENTIALS and CREDENTIALS.unpack(value)[1] == os.getuid() and data:
                return json.loads(data)
        return None

    def wake(self):
        """Ends a `receive` of this member."""
        try:
            self.socket.sendto(b"", socket.MSG_DONTWAIT, self._address(self.name))
        except OSError:
            pass    # there are messages to receive, or the member has left

    def close(self):
        self._remove(self.name)
        try:
            os.rmdir(self.path)    # by the last one
            os.rmdir(os.path.dirname(self.path))
        except OSError:
            pass
