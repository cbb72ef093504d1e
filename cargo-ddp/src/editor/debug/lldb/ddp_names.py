"""Names of functions, as Rust writes them."""
import re

# How rustc writes what a symbol can't hold; lldb decodes only the rest of it.
ESCAPES = {"$SP$": "@", "$BP$": "*", "$RF$": "&", "$LT$": "<", "$GT$": ">", "$LP$": "(", "$RP$": ")", "$C$": ",", "..": "::"}


def frame_name(frame, _dict):
    """For lldb-dap's customFrameFormat."""
    return rust_name(frame)


def rust_name(frame):
    """`train::main::{{closure}}`, not `train::main::_$u7b$$u7b$closure…::h0c96e6d5ddb68cdd`."""
    name = frame.GetDisplayFunctionName() or frame.GetModule().GetFileSpec().GetFilename() or "?"
    name, hashes = re.subn(r"::h[0-9a-f]{16}$", "", name)
    if not hashes:    # C, C++, or a newer rustc's symbol, which lldb reads
        return name
    name = re.sub(r"\$u([0-9a-f]{1,6})\$", lambda code: chr(int(code[1], 16)), name)
    for escape, text in ESCAPES.items():
        name = name.replace(escape, text)
    return re.sub(r"(^|::)_(?=[^\w:])", r"\1", name)


def is_panic(frame):
    """Whether this is the function that all panics call."""
    return rust_name(frame).split("(")[0].split("::")[-1] == "rust_panic"
