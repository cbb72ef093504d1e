"""The values of variables, as text and in parts that can be compared between processes.

Nothing of the program runs. All values are read from memory, where a variable that is moved out or not initialized may have any
content: text and number of parts are bounded.
"""
import collections, hashlib, os, re
import lldb
from ddp_pieces import checksums
from ddp_tensor import Tensor, Unreadable

TENSOR = "tch::wrappers::tensor::Tensor"
WIDTH = 200    # characters of a value's text
PARTS, DEPTH = 300, 12    # of a variable
CHILDREN = 100    # of one part
SMALL = 1 << 20    # bytes of a tensor whose checksum is in the first answer, and
SMALL_SUM = 16 << 20    # those of all in one variable
OWN = "ddp_runtime::"    # of whose types only the summary is compared, if there is one
# The same for types whose content belongs to the process, or has another order in each.
OPAQUE = re.compile(r"^(ddp_runtime::(data|dist|metrics|snapshot)::|std::(fs|io|net|os|process|thread|time)::|std::.*::Hash(Map|Set)<|hashbrown::"
                    r"|core::mem::(maybe_uninit::MaybeUninit|ManuallyDrop)|core::(fmt|task|ptr)::)")
# Their summary counts references.
SHARED = re.compile(r"^alloc::(sync|rc)::")


class Leaf(collections.namedtuple("Leaf", "name text path content digest")):
    """`path`: the numbers of the children that lead to a tensor; `content`: its type, shape, and sizes in bytes."""

    def key(self):
        return digest_of(self.name, self.text, self.digest)


def digest_of(*texts):
    return hashlib.blake2b("\0".join(str(text) for text in texts).encode(), digest_size=8).hexdigest()


def shorten(text):
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[:WIDTH - 1] + "…"


def find_value(frame, expression):
    """A variable or its member; of anything else, what lldb can compute without running code of the program."""
    value = frame.GetValueForVariablePath(expression)
    if value.IsValid() and value.GetError().Success():
        return value
    options = lldb.SBExpressionOptions()
    options.SetAllowJIT(False)
    options.SetIgnoreBreakpoints(True)
    options.SetTryAllThreads(False)
    options.SetSuppressPersistentResult(True)
    options.SetTimeoutInMicroSeconds(1_000_000)
    value = frame.EvaluateExpression(expression, options)
    error = value.GetError()
    if not value.IsValid() or error.Fail():
        raise ValueError((error.GetCString() or f"no value for `{expression}`").strip())
    return value


def _is_pointer(value):
    kind = value.GetType()
    return kind.IsPointerType() or kind.IsReferenceType()


def _type_name(value):
    return value.GetType().GetUnqualifiedType().GetName() or ""


def text_of(value, depth=2):
    """As the Variables view shows it; of a struct without a summary, its fields."""
    summary = value.GetSummary()
    if summary:
        return shorten(summary)
    plain = value.GetValue()
    if plain:
        return shorten(plain)
    count = value.GetNumChildren(9)
    if not count or not depth:
        return "{…}" if count else "{}"
    children = [value.GetChildAtIndex(n) for n in range(min(count, 8))]
    texts = [f"{child.GetName()}: {text_of(child, depth - 1)}" for child in children]
    return shorten(f"{{{', '.join(texts)}{', …' if count > 8 else ''}}}")


class Leaves:
    """The parts of a value that can be compared between processes."""

    def __init__(self, process, value, name):
        self.process, self.parts, self.bytes, self.found = process, PARTS, SMALL_SUM, []
        self._visit(value, name, [])

    def _visit(self, value, name, path):
        if not self.parts or len(path) > DEPTH:
            return
        self.parts -= 1
        if not value.IsValid() or value.GetError().Fail():
            self._add(name, "(unreadable)")
            return
        kind = _type_name(value)
        if kind == TENSOR:
            self._add_tensor(value, name, path)
            return
        summary = value.GetSummary() or ""
        if _is_pointer(value) or OPAQUE.match(kind) or summary and kind.startswith(OWN):
            if "0x" not in summary:    # the address of a pointer
                self._add(name, summary)
            return
        count = value.GetNumChildren(CHILDREN)
        if not count:
            self._add(name, summary or value.GetValue())
            return
        if not SHARED.match(kind):
            self._add(name, summary)
        if not summary.startswith('"'):
            for n in range(min(count, CHILDREN)):
                child = value.GetChildAtIndex(n)
                own = child.GetName() or str(n)
                self._visit(child, name + own if own.startswith("[") else f"{name}.{own}", path + [n])

    def _add(self, name, text):
        if text:
            digest = digest_of(text) if len(text) > WIDTH else None
            self.found.append(Leaf(shorten(name), shorten(text), None, None, digest))

    def _add_tensor(self, value, name, path):
        text, content, digest = shorten(value.GetSummary() or "(unreadable)"), None, None
        try:
            tensor = Tensor(value)
            place = tensor.content()
            if place:
                address, size, each = place
                content = [tensor.dtype, tensor.shape, size, each]
                if size <= min(SMALL, self.bytes):
                    self.bytes -= size
                    with Memory(self.process, address) as memory:
                        digest = digest_of(checksums(memory.read, 0, size, size))
        except (Unreadable, OSError):
            pass
        self.found.append(Leaf(shorten(name), text, path, content, digest))


class Memory:
    """Reads at offsets from an address: from Linux, which is faster, or through lldb where the process does not permit it."""

    def __init__(self, process, address):
        self.process, self.address = process, address

    def __enter__(self):
        try:
            self.file = os.open(f"/proc/{self.process.GetProcessID()}/mem", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.file = None
        return self

    def __exit__(self, *_):
        if self.file is not None:
            os.close(self.file)

    def read(self, offset, size):
        if self.file is None:
            error = lldb.SBError()
            data = self.process.ReadMemory(self.address + offset, size, error)
        else:
            data = os.pread(self.file, size, self.address + offset)
        if data is None or len(data) != size:
            raise OSError("memory is not readable")
        return data
