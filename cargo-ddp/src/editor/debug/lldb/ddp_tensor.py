"""What a `tch::Tensor` is, from its memory alone."""
import struct
import lldb

MAX_DIMS = 64
SHOWN = 8          # values of a tensor in its summary
LISTED = 100       # values of a tensor among its children

# csrc/debug.cpp's ddp_debug_layout, version 1.
LAYOUT = struct.Struct("<8s19I4x2Q")
FIELDS = ("size refcount storage autograd dim sizes inline_dims storage_offset numel dtype device_type device_index "
          "has_device keys data storage_bytes requires_grad grad_fn grad conjugate negative").split()
MAGIC = b"ddpdbg01"

# c10::ScalarType: PyTorch's name, and how to unpack one (None: it is not shown).
DTYPES = {
    0: ("uint8", "B"), 1: ("int8", "b"), 2: ("int16", "h"), 3: ("int32", "i"), 4: ("int64", "q"), 5: ("float16", "e"),
    6: ("float32", "f"), 7: ("float64", "d"), 8: ("complex32", "ee"), 9: ("complex64", "ff"), 10: ("complex128", "dd"),
    11: ("bool", "?"), 12: ("qint8", None), 13: ("quint8", None), 14: ("qint32", None), 15: ("bfloat16", "bf"),
    16: ("quint4x2", None), 17: ("quint2x4", None), 23: ("float8_e5m2", None), 24: ("float8_e4m3fn", None),
    25: ("float8_e5m2fnuz", None), 26: ("float8_e4m3fnuz", None), 27: ("uint16", "H"), 28: ("uint32", "I"),
    29: ("uint64", "Q"), 44: ("float8_e8m0fnu", None), 45: ("float4_e2m1fn_x2", None),
}
DEVICES = {0: "cpu", 1: "cuda", 2: "mkldnn", 6: "hip", 9: "xla", 12: "xpu", 13: "mps", 14: "meta", 17: "lazy", 20: "privateuseone"}
CPU = 0


class Unreadable(Exception):
    """Why a tensor can't be shown."""


class Memory:
    def __init__(self, process):
        self.process = process

    def bytes(self, address, count):
        error = lldb.SBError()
        data = self.process.ReadMemory(address, count, error) if 0 < count <= 1 << 16 else None
        if data is None or error.Fail() or len(data) != count:
            raise Unreadable("uninitialized or moved out")
        return data

    def number(self, address, code):
        code = struct.Struct("<" + code)
        return code.unpack(self.bytes(address, code.size))[0]

    def pointer(self, address):
        return self.number(address, "Q")


def _layout(target, memory):
    """Where the parts of a tensor are in this program."""
    for symbol in target.FindSymbols("ddp_debug_tensor_layout", lldb.eSymbolTypeAny):
        address = symbol.GetSymbol().GetStartAddress().GetLoadAddress(target)
        if address == lldb.LLDB_INVALID_ADDRESS:
            continue
        magic, *values = LAYOUT.unpack(memory.bytes(address, LAYOUT.size))
        if magic == MAGIC and values[0] == LAYOUT.size:
            return dict(zip(FIELDS, values))
    raise Unreadable("this program has no ddp-runtime of this version")


class Tensor:
    """What is known of a tensor from its memory."""

    def __init__(self, value):
        value = value.GetNonSyntheticValue()
        target = value.GetTarget()
        self.memory = memory = Memory(value.GetProcess())
        handle = value.GetChildMemberWithName("c_tensor")
        handle = handle.GetValueAsUnsigned(0) if handle.IsValid() else 0
        if handle == 0 or handle % 8:
            raise Unreadable("uninitialized or moved out")
        self.at = at = _layout(target, memory)
        impl = memory.pointer(handle)
        if impl == 0 or impl % 8:
            raise Unreadable("uninitialized or moved out")
        self._check_class(target, impl)
        self.keys = memory.number(impl + at["keys"], "Q")
        if not memory.number(impl + at["has_device"], "B"):    # UndefinedTensorImpl, which is nobody's and everybody's
            raise Unreadable("undefined")
        if memory.number(impl + at["refcount"], "I") == 0:
            raise Unreadable("freed")
        self._read_shape(impl)
        self._read_kind(impl)
        self._read_autograd(impl)
        self.impl = impl

    def _check_class(self, target, impl):
        """A live object of libtorch begins with a pointer to one of its virtual tables."""
        table = target.ResolveLoadAddress(self.memory.pointer(impl))
        module = table.GetModule()
        name = module.GetFileSpec().GetFilename() or "" if module.IsValid() else ""
        own = target.GetExecutable().GetFilename() or "?"
        if not (name.startswith(("libtorch", "libc10")) or name == own) or not table.GetSection().IsValid():
            raise Unreadable("uninitialized or moved out")

    def _read_shape(self, impl):
        at, memory = self.at, self.memory
        dims = memory.number(impl + at["dim"], "Q")
        self.numel = memory.number(impl + at["numel"], "q")
        if dims > MAX_DIMS:
            raise Unreadable("uninitialized or moved out")
        sizes, room = impl + at["sizes"], at["inline_dims"]
        if dims > room:
            sizes, room = memory.pointer(sizes), dims
        both = [memory.bytes(place, 8 * dims) if dims else b"" for place in (sizes, sizes + 8 * room)]
        self.shape, self.strides = (list(struct.unpack(f"<{dims}q", part)) for part in both)
        product = 1
        for size in self.shape:
            product *= size
        if min(self.shape, default=0) < 0 or product != self.numel:
            raise Unreadable("uninitialized or moved out")

    def _read_kind(self, impl):
        at, memory = self.at, self.memory
        index = memory.number(impl + at["dtype"], "H")
        self.dtype, self.code = DTYPES.get(index, (f"dtype {index}", None))
        self.device_type = memory.number(impl + at["device_type"], "B")
        self.device = DEVICES.get(self.device_type, f"device type {self.device_type}")
        number = memory.number(impl + at["device_index"], "b")
        if number >= 0 and self.device_type != CPU:
            self.device += f":{number}"
        self.offset = memory.number(impl + at["storage_offset"], "q")
        self.storage = memory.pointer(impl + at["storage"])

    def _read_autograd(self, impl):
        at, memory = self.at, self.memory
        meta = memory.pointer(impl + at["autograd"])
        self.requires_grad, self.has_grad = False, False
        if meta:
            grad_fn = memory.pointer(meta + at["grad_fn"])
            self.requires_grad = bool(memory.number(meta + at["requires_grad"], "B")) or grad_fn != 0
            grad = memory.pointer(meta + at["grad"])
            self.has_grad = grad != 0 and memory.number(grad + at["has_device"], "B") != 0

    def values(self, limit):
        """The first values in the order of indices, or why there are none."""
        if self.device_type != CPU:
            raise Unreadable(f"values on {self.device}")
        if self.code is None:
            raise Unreadable(f"values of {self.dtype}")
        if self.numel == 0:
            return []
        if self.storage == 0:
            raise Unreadable("no dense values")
        data = self.memory.pointer(self.storage + self.at["data"])
        length = self.memory.number(self.storage + self.at["storage_bytes"], "q")
        size = 2 if self.code == "bf" else struct.calcsize("<" + self.code)
        values = []
        for n in range(min(limit, self.numel)):
            place, rest = self.offset, n
            for extent, stride in zip(reversed(self.shape), reversed(self.strides)):
                place, rest = place + rest % extent * stride, rest // extent
            if data == 0 or not 0 <= place * size <= length - size:
                raise Unreadable("no values")
            values.append(self.unpack(self.memory.bytes(data + place * size, size)))
        return values

    def content(self):
        """Where all values are, as (address, bytes of all, bytes of one): of a dense tensor on the CPU with its values in the order
        of indices. None for others."""
        if self.device_type != CPU or self.code is None or self.numel == 0 or self.storage == 0:
            return None
        stride = 1
        for extent, own in zip(reversed(self.shape), reversed(self.strides)):
            if extent != 1 and own != stride:
                return None
            stride *= extent
        data = self.memory.pointer(self.storage + self.at["data"])
        length = self.memory.number(self.storage + self.at["storage_bytes"], "q")
        size = 2 if self.code == "bf" else struct.calcsize("<" + self.code)
        if data == 0 or not 0 <= self.offset * size <= length - self.numel * size:
            return None
        return data + self.offset * size, self.numel * size, size

    def unpack(self, data):
        if self.code == "bf":
            return self._lazily(struct.unpack("<f", b"\0\0" + data)[0])
        parts = struct.unpack("<" + self.code, data)
        return self._lazily(complex(*parts) if len(parts) == 2 else parts[0])

    def _lazily(self, value):
        """What the values in memory stand for."""
        if self.keys & self.at["conjugate"] and isinstance(value, complex):
            value = value.conjugate()
        return -value if self.keys & self.at["negative"] else value


def _number(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _shown(tensor, limit):
    try:
        values = [_number(value) for value in tensor.values(limit)]
    except Unreadable as why:
        return f"({why})"
    more = ", …" if tensor.numel > limit else ""
    return values[0] if not tensor.shape and values else f"[{', '.join(values)}{more}]"


def tensor_summary(value, _dict):
    try:
        tensor = Tensor(value)
    except Unreadable as why:
        return f"Tensor ({why})"
    grad = ", requires_grad" if tensor.requires_grad else ""
    return f"{tensor.shape} {tensor.dtype} {tensor.device}{grad} {_shown(tensor, SHOWN)}"


class TensorChildren:
    """shape, dtype, device, requires_grad, grad, values."""

    def __init__(self, value, _dict):
        self.value, self.children = value, []

    def update(self):
        self.children = []
        try:
            tensor = Tensor(self.value)
        except Unreadable:
            return False
        self._numbers("shape", tensor.shape, lldb.eBasicTypeLongLong, "q")
        self._text("dtype", tensor.dtype)
        self._text("device", tensor.device)
        self._text("requires_grad", _number(tensor.requires_grad))
        if tensor.has_grad:
            pointer = tensor.memory.pointer(tensor.impl + tensor.at["autograd"]) + tensor.at["grad"]
            self.children.append(self._make("grad", struct.pack("<Q", pointer), self.value.GetType().GetUnqualifiedType()))
        try:
            values = tensor.values(LISTED)
        except Unreadable as why:
            self._text("values", f"({why})")
            return False
        if values and isinstance(values[0], (bool, complex)):
            self._text("values", _shown(tensor, LISTED))
        elif values and isinstance(values[0], float):
            self._numbers("values", values, lldb.eBasicTypeDouble, "d")
        elif tensor.dtype == "uint64":
            self._numbers("values", values, lldb.eBasicTypeUnsignedLongLong, "Q")
        else:
            self._numbers("values", values, lldb.eBasicTypeLongLong, "q")
        return False

    def _numbers(self, name, values, basic, code):
        kind = self.value.GetTarget().GetBasicType(basic)
        if values and kind.IsValid():
            data = struct.pack(f"<{len(values)}{code}", *values)
            self.children.append(self._make(name, data, kind.GetArrayType(len(values))))
        else:
            self._text(name, str(values))

    def _text(self, name, text):
        data = text.encode() + b"\0"
        kind = self.value.GetTarget().GetBasicType(lldb.eBasicTypeChar).GetArrayType(len(data))
        self.children.append(self._make(name, data, kind))

    def _make(self, name, data, kind):
        content = lldb.SBData()
        content.SetData(lldb.SBError(), data, lldb.eByteOrderLittle, 8)
        return self.value.CreateValueFromData(name, content, kind)

    def num_children(self):
        return len(self.children)

    def has_children(self):
        return True

    def get_child_at_index(self, index):
        return self.children[index] if 0 <= index < len(self.children) else None

    def get_child_index(self, name):
        return next((i for i, child in enumerate(self.children) if child.GetName() == name), -1)
