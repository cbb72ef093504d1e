# Version 2. Written by cargo-ddp, which replaces it when it changes: edit cargo-ddp/src/debug/ddp_debug.py instead.
"""Loaded into lldb by the launch configurations of `cargo ddp vscode`.

on_spawn        opens a debug session for each worker that a launcher starts
frame_name      names the functions of a call stack as Rust writes them
the formatters  show Rust's own types (rustc's formatters), tensors, a worker's context, samplers

A formatter only reads memory: it never runs code in the debuggee, and gives up on whatever does not look like what it
expects (a variable before its initialisation, after a move, in freed memory).
"""
import json, os, re, shutil, struct, subprocess, sys
import lldb

SIGNALS = "SIGTERM SIGINT SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGCONT"   # sent by the launcher: the program is to get them
MAX_DIMS = 64
MAX_TEXT = 1 << 16       # bytes of a path
MAX_BUCKETS = 1 << 20    # of a hash map
SHOWN = 8          # values of a tensor in its summary
LISTED = 100       # values of a tensor among its children


def __lldb_init_module(debugger, _dict):
    interpreter = debugger.GetCommandInterpreter()

    def run(command):    # without its words in every session's console
        result = lldb.SBCommandReturnObject()
        interpreter.HandleCommand(command, result)
        if not result.Succeeded():
            print(f"ddp: {command}: {result.GetError()}")

    in_codelldb = _codelldb() is not None
    _load_rustc_formatters(debugger, in_codelldb)
    if not in_codelldb:
        # Without a process these are for the one that will be.
        run(f"process handle -n true -p true -s false {SIGNALS}")
        run("breakpoint set -n rust_panic -N rust_panic")
    # In the category of rustc's formatters, where a type's own name comes before their patterns, which fit every type. They
    # win from any other category if they are loaded later, as CodeLLDB does.
    for function, *types in FORMATTERS:
        pattern = "-x" if types[0].startswith("^") else ""
        run(f'type summary add -w Rust {pattern} -F {__name__}.{function} -e {" ".join(types)}')
    run(f'type synthetic add -w Rust -l {__name__}.TensorChildren {TENSOR}')
    run("type category enable Rust")


def _codelldb():
    try:
        import codelldb
        return codelldb
    except ImportError:
        return None


def _load_rustc_formatters(debugger, in_codelldb):
    # The project's own toolchain (rust-toolchain.toml) counts; this file is in its .ddp/debug/.
    project = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    rustc = shutil.which("rustc") or os.path.expanduser("~/.cargo/bin/rustc")
    try:
        sysroot = subprocess.run([rustc, "--print", "sysroot"], cwd=project, stdin=subprocess.DEVNULL, check=True,
                                 capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError) as err:
        print(f"ddp: Rust's formatters are not loaded: {err}")
        return
    etc = os.path.join(sysroot, "lib", "rustlib", "etc")
    debugger.HandleCommand(f'command script import "{etc}/lldb_lookup.py"')
    if not in_codelldb:    # which does that by itself, later; the modules stay as they are mended here
        debugger.HandleCommand(f'command source -s 1 "{etc}/lldb_commands"')
    _mend_enums()
    _bound_rustc_formatters()


def _mend_enums():
    """lldb keeps 32 bits of a variant's discriminant in its name; rustc's formatter looks for all 64, and shows None as Some."""
    try:
        provider = __import__("lldb_providers").ClangEncodedEnumProvider
    except (ImportError, AttributeError):    # of another version
        return

    def current(self, variants):
        default = 0
        for at in range(variants.GetNumChildren()):
            variant = variants.GetChildAtIndex(at)
            discriminant = variant.GetChildMemberWithName("$discr$")
            if not discriminant.IsValid():
                default = at
            else:
                value = discriminant.GetValueAsUnsigned()
                if variant.GetName() in (f"$variant${value}", f"$variant${value & 0xffffffff}"):
                    return at
        return default

    provider._getCurrentVariantIndex = current


def _bound_rustc_formatters():
    """Those that loop over a length, one element after the other, would do so for years where it is garbage: in variables
    that are not initialised yet, or moved out. (`let batch = batch?` leaves a moved-out Result behind.)"""
    providers = sys.modules.get("lldb_providers")
    text, table = getattr(providers, "vec_to_string", None), getattr(providers, "StdHashMapSyntheticProvider", None)

    def vec_to_string(vec):    # OsString, PathBuf
        return text(vec) if vec.GetNumChildren() <= MAX_TEXT else "(uninitialised or moved out)"

    if text:
        providers.vec_to_string = vec_to_string
    if table:
        update = table.update

        def bounded_update(self):    # HashMap, HashSet
            mask = self.table().GetChildMemberWithName("table").GetChildMemberWithName("bucket_mask")
            if mask.GetValueAsUnsigned() < MAX_BUCKETS:
                update(self)
            else:
                self.size, self.valid_indices = 0, []

        table.update = bounded_update


# --- sessions ---------------------------------------------------------------------------------------------------------

def on_spawn(frame, _location, _extra, _dict):
    """At ddp_start_debugging(request, configuration, rank, pid): never stops there."""
    process = frame.GetThread().GetProcess()
    request, config = (_argument(process, frame, n) for n in (1, 2))
    codelldb = _codelldb()
    if codelldb is not None:
        if hasattr(codelldb, "start_debugging"):
            codelldb.start_debugging(request, json.loads(config))
        else:
            print("ddp: can't open a debug session: this CodeLLDB is older than 1.12.1; update the extension")
        return False
    interpreter = process.GetTarget().GetDebugger().GetCommandInterpreter()
    result = lldb.SBCommandReturnObject()
    quoted = config.replace("'", "\\u0027")
    errors = ""
    for command in ("startDebugging", "start-debugging"):   # the second since LLVM 20
        result.Clear()
        interpreter.HandleCommand(f"lldb-dap {command} {request} '{quoted}'", result)
        if result.Succeeded():
            return False
        errors += result.GetError() or ""
    print("ddp: can't open a debug session:", errors)
    return False


def _argument(process, frame, number):
    # lldb's generic names of registers: right at a function's first instruction, on x86-64 and arm64.
    # (Not GetValueAsUnsigned: rustc's formatters are for every type, and give that of a register wrong.)
    address = int(frame.FindRegister(f"arg{number}").GetValue(), 16)
    return process.ReadCStringFromMemory(address, 1 << 16, lldb.SBError())


# --- names of functions -----------------------------------------------------------------------------------------------

# How rustc writes what a symbol can't hold; lldb decodes only the rest of it.
ESCAPES = {"$SP$": "@", "$BP$": "*", "$RF$": "&", "$LT$": "<", "$GT$": ">", "$LP$": "(", "$RP$": ")", "$C$": ",", "..": "::"}


def frame_name(frame, _dict):
    """For lldb-dap's customFrameFormat: `train::main::{{closure}}`, not `train::main::_$u7b$$u7b$closure…::h0c96e6d5ddb68cdd`."""
    name = frame.GetDisplayFunctionName() or frame.GetModule().GetFileSpec().GetFilename() or "?"
    name, hashes = re.subn(r"::h[0-9a-f]{16}$", "", name)
    if not hashes:    # C, C++, or a newer rustc's symbol, which lldb reads
        return name
    name = re.sub(r"\$u([0-9a-f]{1,6})\$", lambda code: chr(int(code[1], 16)), name)
    for escape, text in ESCAPES.items():
        name = name.replace(escape, text)
    return re.sub(r"(^|::)_(?=[^\w:])", r"\1", name)


# --- tensors ----------------------------------------------------------------------------------------------------------

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
            raise Unreadable("uninitialised or moved out")
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
            raise Unreadable("uninitialised or moved out")
        self.at = at = _layout(target, memory)
        impl = memory.pointer(handle)
        if impl == 0 or impl % 8:
            raise Unreadable("uninitialised or moved out")
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
            raise Unreadable("uninitialised or moved out")

    def _read_shape(self, impl):
        at, memory = self.at, self.memory
        dims = memory.number(impl + at["dim"], "Q")
        self.numel = memory.number(impl + at["numel"], "q")
        if dims > MAX_DIMS:
            raise Unreadable("uninitialised or moved out")
        sizes, room = impl + at["sizes"], at["inline_dims"]
        if dims > room:
            sizes, room = memory.pointer(sizes), dims
        both = [memory.bytes(place, 8 * dims) if dims else b"" for place in (sizes, sizes + 8 * room)]
        self.shape, self.strides = (list(struct.unpack(f"<{dims}q", part)) for part in both)
        product = 1
        for size in self.shape:
            product *= size
        if min(self.shape, default=0) < 0 or product != self.numel:
            raise Unreadable("uninitialised or moved out")

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
            values.append(self._unpack(self.memory.bytes(data + place * size, size)))
        return values

    def _unpack(self, data):
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


# --- ddp-runtime's types ----------------------------------------------------------------------------------------------

def _member(value, *path):
    value = value.GetNonSyntheticValue()
    for name in path:
        value = value.GetChildMemberWithName(name).GetNonSyntheticValue()
    return value.GetValueAsUnsigned(0)


def context_summary(value, _dict):
    rank, size = _member(value, "world", "rank"), _member(value, "world", "world_size")
    return f"rank {rank} of {size}" if rank < size <= 1 << 20 else "(uninitialised or moved out)"


def world_summary(value, _dict):
    rank, size = _member(value, "rank"), _member(value, "world_size")
    return f"rank {rank} of {size}" if rank < size <= 1 << 20 else "(uninitialised or moved out)"


class Sampler:
    """A DistributedSampler or an EvalSampler."""

    def __init__(self, value):
        self.length, self.rank, self.size = (_member(value, name) for name in ("dataset_len", "rank", "num_replicas"))
        if not self.rank < self.size <= 1 << 20 or self.length >= 1 << 63:
            raise Unreadable("uninitialised or moved out")
        self.epoch = self.order = None
        if value.GetNonSyntheticValue().GetChildMemberWithName("shuffle").IsValid():
            self.epoch = _member(value, "epoch")
            self.order = f"shuffled with seed {_member(value, 'seed')}" if _member(value, "shuffle") else "in order"
            drop_last = _member(value, "drop_last")
            self.share = self.length // self.size if drop_last else -(-self.length // self.size)
        else:    # each sample is one rank's
            self.share = -(-max(0, self.length - self.rank) // self.size)

    def text(self, position=None):
        """With `position` (epoch, samples that all ranks together have seen of it), how far it is."""
        epoch, seen = self.epoch, None
        # Repeated samples count: up to one less than there are ranks.
        if position and position[1] <= self.length + self.size:
            epoch, seen = position
        start = "" if epoch is None else f"epoch {epoch}: "
        shares = f"{self.share} of {self.length} samples" if seen is None else \
                 f"at {min(seen, self.length)} of {self.length} samples, {self.share}"
        order = f", {self.order}" if self.order else ""
        return f"{start}{shares} for rank {self.rank} of {self.size}{order}"


def sampler_summary(value, _dict):
    try:
        sampler = Sampler(value)
    except Unreadable as why:
        return f"({why})"
    position = _progress_beside(value)
    # Of another epoch, it does not tell where this one is.
    return sampler.text(position if position and position[0] == sampler.epoch else None)


def _progress_beside(value):
    """A sampler does not count; the loop that uses it does: (epoch, samples) of the only Progress in its frame."""
    found = []
    for variable in value.GetFrame().GetVariables(True, True, False, True):
        kind = variable.GetType()
        kind = kind.GetPointeeType() if kind.IsPointerType() else kind    # a reference
        if kind.GetUnqualifiedType().GetName() in PROGRESS:
            found.append(tuple(_member(variable, name) for name in ("epoch", "samples")))
    return found[0] if len(set(found)) == 1 else None


def loader_summary(value, _dict):
    at = ("position", "value", "value")    # in a Cell
    position = _member(value, *at, "epoch"), _member(value, *at, "samples")
    batch = _member(value, "batch_size")
    sampler = value.GetNonSyntheticValue().GetChildMemberWithName("sampler")
    if not 0 < batch < 1 << 63:
        return "(uninitialised or moved out)"
    if not sampler.GetNonSyntheticValue().GetChildMemberWithName("dataset_len").IsValid():    # the program's own
        return f"epoch {position[0]}: at {position[1]} samples of all ranks, batches of {batch}"
    try:
        return f"{Sampler(sampler).text(position)}, batches of {batch}"
    except Unreadable as why:
        return f"({why})"


def batches_summary(value, _dict):
    names = ("next", "batches", "batch_size", "samples", "num_replicas")
    count, batches, batch, samples, replicas = (_member(value, "progress", name) for name in names)
    epoch = _member(value, "progress", "start", "epoch")
    if not (count <= batches <= samples < 1 << 63 and 0 < batch < 1 << 63 and 0 < replicas <= 1 << 20):
        return "(uninitialised or moved out)"
    return f"epoch {epoch}: at batch {count} of {batches}, {min(count * batch, samples)} of this rank's {samples} samples"


def progress_summary(value, _dict):
    epoch, step, samples = (_member(value, name) for name in ("epoch", "step", "samples"))
    return f"epoch {epoch}, step {step}, {samples} samples of the epoch seen"


def position_summary(value, _dict):
    return f"epoch {_member(value, 'epoch')}, {_member(value, 'samples')} samples of it given out"


TENSOR = "tch::wrappers::tensor::Tensor"
PROGRESS = ("ddp_runtime::snapshot::Progress", "ddp_runtime::snapshot::state::Progress")
# Each with its types; of generic ones, a pattern.
FORMATTERS = (
    ("tensor_summary", TENSOR),
    ("context_summary", "ddp_runtime::context::Context"),
    ("world_summary", "ddp_runtime::world::World"),
    ("sampler_summary", "ddp_runtime::sampler::DistributedSampler", "ddp_runtime::data::eval::EvalSampler"),
    ("loader_summary", "^ddp_runtime::data::loader::DataLoader<.+>$"),
    ("batches_summary", "^ddp_runtime::data::batches::Batches<.+>$"),
    ("position_summary", "ddp_runtime::data::loader::Position"),
    ("progress_summary", *PROGRESS),
)
