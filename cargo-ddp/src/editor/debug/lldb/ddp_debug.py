# Version 5. Written by cargo-ddp, which replaces it when it changes: edit cargo-ddp/src/editor/debug/lldb instead.
"""Loaded into lldb by the launch configurations of `cargo ddp vscode`.

on_spawn        opens a debug session for each worker that a launcher starts
on_join         makes the session of a worker that has joined a launcher part of the group of ranks
frame_name      names the functions of a call stack as Rust writes them
the formatters  show Rust's own types (ddp_rustc), tensors (ddp_tensor), a worker's context, samplers (ddp_types)

A formatter only reads memory: it never runs code in the debuggee, and gives up on whatever does not look like what it
expects (a variable before its initialization, after a move, in freed memory).
"""
import json, os
import lldb
import ddp_commands, ddp_group, ddp_ranks, ddp_rustc, ddp_steps
from ddp_names import frame_name
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
    ddp_commands.load(run, __name__)
    ddp_ranks.load(run, __name__)
    run(f"command script add -o -f {__name__}.join ddp-join")
    run(f"command script add -o -s asynchronous -f {__name__}.step ddp-step")
    run(f"target stop-hook add -P {__name__}.ddp_group.StopHook")
    run("breakpoint set -K false -n ddp_joined -N ddp_joined")
    run(f"breakpoint command add -F {__name__}.on_join ddp_joined")
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
    config = _with_relay(config)
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


def _with_relay(config):
    """The configuration runs this adapter's own program between itself and the editor."""
    config = json.loads(config)
    if "debugAdapterArgs" in config:
        config["debugAdapterArgs"].append(os.readlink("/proc/self/exe"))
    return json.dumps(config)


def join(debugger, command, _result, _dict):
    """ddp-join RANK FOLDER: this session, whose process is not there yet, becomes one of the group that meets in a folder."""
    rank, _, folder = command.partition(" ")
    ddp_group.Member(debugger, folder, int(rank))


def step(debugger, kind, result, _dict):
    """ddp-step over|in|out: what cargo-ddp's relay makes of a step where it has folded the frames above the user's own."""
    member = ddp_group.members.get(debugger.GetID())
    error = member.step(kind) if member else lldb.SBError("this session is not part of a group of ranks")
    if error.Fail():
        result.SetError(error.GetCString())


def on_join(frame, _location, _extra, _dict):
    """At ddp_joined(folder, rank), where a worker has joined its launcher: never stops there."""
    process = frame.GetThread().GetProcess()
    rank = int(frame.FindRegister("arg2").GetValue(), 16) & 0xffffffff
    ddp_group.Member(process.GetTarget().GetDebugger(), _argument(process, frame, 1), rank, running=True)
    return False


def _argument(process, frame, number):
    # lldb's generic names of registers: right at a function's first instruction, on x86-64 and arm64.
    # (Not GetValueAsUnsigned: rustc's formatters are for every type, and give that of a register wrong.)
    address = int(frame.FindRegister(f"arg{number}").GetValue(), 16)
    return process.ReadCStringFromMemory(address, 1 << 16, lldb.SBError())
