# Version 4. Written by cargo-ddp, which replaces it when it changes: edit cargo-ddp/src/editor/debug/lldb instead.
"""Loaded into lldb by the launch configurations of `cargo ddp vscode`.

on_spawn        opens a debug session for each worker that a launcher starts
frame_name      names the functions of a call stack as Rust writes them
the formatters  show Rust's own types (ddp_rustc), tensors (ddp_tensor), a worker's context, samplers (ddp_types)

A formatter only reads memory: it never runs code in the debuggee, and gives up on whatever does not look like what it
expects (a variable before its initialization, after a move, in freed memory).
"""
import json, re
import lldb
import ddp_rustc
from ddp_tensor import TensorChildren, tensor_summary
from ddp_types import (PROGRESS, batches_summary, context_summary, loader_summary, position_summary, progress_summary,
                       run_summary, sampler_summary, world_summary)

# What the launcher sends, the program is to get; a write to a rank that is gone makes a SIGPIPE, which Rust ignores.
SIGNALS = "SIGTERM SIGINT SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGCONT SIGPIPE"
TENSOR = "tch::wrappers::tensor::Tensor"
# Each with its types; of generic ones, a pattern.
FORMATTERS = {
    tensor_summary: [TENSOR],
    context_summary: ["ddp_runtime::dist::context::Context"],
    world_summary: ["ddp_runtime::dist::world::World"],
    sampler_summary: ["ddp_runtime::data::sampler::distributed::DistributedSampler",
                      "ddp_runtime::data::sampler::eval::EvalSampler"],
    loader_summary: ["^ddp_runtime::data::loader::DataLoader<.+>$"],
    batches_summary: ["^ddp_runtime::data::loader::batches::Batches<.+>$"],
    position_summary: ["ddp_runtime::data::loader::position::Position"],
    progress_summary: PROGRESS,
    run_summary: ["^ddp_runtime::train::run::Run<.+>$"],
}


def __lldb_init_module(debugger, _dict):
    interpreter = debugger.GetCommandInterpreter()

    def run(command):    # without its words in every session's console
        result = lldb.SBCommandReturnObject()
        interpreter.HandleCommand(command, result)
        if not result.Succeeded():
            print(f"ddp: {command}: {result.GetError()}")

    in_codelldb = _codelldb() is not None
    ddp_rustc.load(debugger, in_codelldb)
    # Without a process these are for the one that will be.
    run(f"process handle -n true -p true -s false {SIGNALS}")
    if not in_codelldb:    # which has a switch for it
        run("breakpoint set -n rust_panic -N rust_panic")
    # In the category of rustc's formatters, where a type's own name comes before their patterns, which fit every type. They
    # win from any other category if they are loaded later, as CodeLLDB does.
    for summary, types in FORMATTERS.items():
        pattern = "-x" if types[0].startswith("^") else ""
        run(f'type summary add -w Rust {pattern} -F {__name__}.{summary.__name__} -e {" ".join(types)}')
    run(f"type synthetic add -w Rust -l {__name__}.{TensorChildren.__name__} {TENSOR}")
    run("type category enable Rust")


def _codelldb():
    try:
        import codelldb
        return codelldb
    except ImportError:
        return None


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
