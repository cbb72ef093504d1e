"""rustc's own formatters, with what lldb and they do not agree about mended."""
import os, shutil, subprocess, sys

MAX_TEXT = 1 << 16       # bytes of a path
MAX_BUCKETS = 1 << 20    # of a hash map


def load(debugger, in_codelldb):
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
    that are not initialized yet, or moved out. (`let batch = batch?` leaves a moved-out Result behind.)"""
    providers = sys.modules.get("lldb_providers")
    text, table = getattr(providers, "vec_to_string", None), getattr(providers, "StdHashMapSyntheticProvider", None)

    def vec_to_string(vec):    # OsString, PathBuf
        return text(vec) if vec.GetNumChildren() <= MAX_TEXT else "(uninitialized or moved out)"

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
