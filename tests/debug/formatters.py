"""Scenarios of workers whose variables are examined: tensors, samplers, loaders and runs."""
import os
from editor import Editor
from stage import ADAPTER, LINE, PROJECT, SOURCE, editors, has


def inner_value(session, variable):
    """What a ManuallyDrop holds."""
    value, reference, kind = variable
    while "::ManuallyDrop<" in kind or "::MaybeDangling<" in kind:
        value, reference, kind = next(iter(session.variables(reference).values()))
    return value


def tensors():
    """tests/workers/tensors.rs: the summary of each tensor, and that none does harm."""
    made = Editor(PROJECT, ADAPTER)
    editors.append(made)
    made.set_breakpoint(SOURCE, LINE)
    session = made._open({"name": "tensors", "type": ADAPTER.kind, "request": "launch", "cwd": PROJECT,
                          "sourceLanguages": ["rust"], "program": os.environ["DDP_TEST_PROGRAM"],
                          "initCommands": ["settings set symbols.enable-lldb-index-cache true",
                                           f'command script import "{PROJECT}/.ddp/debug/ddp_debug.py"']})
    made.wait("stop", lambda: session.stops)
    variables = session.variables()
    gone = r"^Tensor \(uninitialized or moved out\)$"
    for name, pattern in {
        "float": r"^\[2, 3\] float32 cpu \[0, 1, 2, 3, 4, 5\]$",
        "double": r"^\[2, 3\] float64 cpu \[0, 1, 2, 3, 4, 5\]$",
        "half": r"^\[2, 3\] float16 cpu \[0, 1, 2, 3, 4, 5\]$",
        "bfloat": r"^\[2, 3\] bfloat16 cpu \[0, 1, 2, 3, 4, 5\]$",
        "int8": r"^\[2, 3\] int8 cpu \[-3, -2, -1, 0, 1, 2\]$",
        "boolean": r"^\[2, 3\] bool cpu \[false, false, false, true, true, true\]$",
        "scalar": r"^\[\] float\d\d cpu 2.5$",
        "empty": r"^\[0, 3\] float32 cpu \[\]$",
        "transposed": r"^\[3, 2\] float32 cpu \[0, 3, 1, 4, 2, 5\]$",
        "part": r"^\[2, 2\] float32 cpu \[1, 2, 4, 5\]$",
        "expanded": r"^\[2, 3\] int64 cpu \[1, 1, 1, 2, 2, 2\]$",
        "many_dims": r"^\[1, 1, 2, 1, 3, 1, 1\] float32 cpu \[0, 1, 2, 3, 4, 5\]$",
        "complex": r"^\[2, 3\] complex64 cpu \[1j, \(1\+2j\), ",
        "conjugate": r"^\[2, 3\] complex64 cpu \[-1j, \(1-2j\), ",
        "negative": r"^\[2, 3\] float32 cpu \[-1, -2, -3, -4, -5, -6\]$",
        "large": r"^\[100000\] int64 cpu \[0, 1, 2, 3, 4, 5, 6, 7, …\]$",
        "sparse": r"^\[2, 3\] float32 cpu \(no dense values\)$",
        "weight": r"^\[2, 3\] float32 cpu, requires_grad \[0, 1, 2, 3, 4, 5\]$",
        "grown": r"^\[2, 3\] float32 cpu, requires_grad \[1, 2, 3, 4, 5, 6\]$",
        "undefined": r"^Tensor \(undefined\)$",
        "moved": r"^(\[2, 3\] float32 cpu|Tensor \()",    # the bits that were moved from, or the current content
    }.items():
        has(variables[name][0], pattern)
    parts = lambda name: session.variables(variables[name][1])

    inner = lambda name: inner_value(session, variables[name])

    has(inner("gpu"), r"^\[2, 3\] float32 cuda:3 \(values on cuda:3\)$")
    for name in ("null", "low", "high", "stack", "odd"):
        has(inner(name), gone)
    has(inner("freed"), r"^Tensor \(")
    grad = session.variables(parts("weight")["grad"][1])
    has(session.variables(grad["values"][1])["[5]"][0], "^10$")
    assert len(session.variables(parts("large")["values"][1])) == 100
    made.clear_breakpoints()
    session.go_on()
    made.all_over()
    assert session.code == 0, made.say()


def positions():
    """tests/workers/positions.rs: the positions of samplers, loaders and their batches."""
    made = Editor(PROJECT, ADAPTER)
    editors.append(made)
    counted, in_run = (next(n for n, line in enumerate(open(SOURCE), 1) if mark in line) for mark in ("// COUNTED", "// RUN"))
    for line in LINE, counted:
        made.set_breakpoint(SOURCE, line)
    session = made._open({"name": "positions", "type": "lldb-dap", "request": "launch", "cwd": PROJECT,
                          "program": os.environ["DDP_TEST_PROGRAM"],
                          "initCommands": ["settings set symbols.enable-lldb-index-cache true",
                                           f'command script import "{PROJECT}/.ddp/debug/ddp_debug.py"']})

    def expect(times, shown):
        made.wait("stop", lambda: len(session.stops) == times)
        variables = session.variables()
        for name, value in shown.items():
            assert variables[name][0] == value, f"{name}: {variables[name][0]!r} is not {value!r}"
        return variables

    in_all = "100 for rank 0 of 1, shuffled with seed 7, batches of 8"
    variables = expect(1, {
        "loader": f"epoch 3: at 48 of 100 samples, {in_all}",
        "iter": "epoch 3: at batch 1 of 8, 8 of this rank's 60 samples",
        "evaluation": "epoch 0: at 16 of 100 samples, 100 for rank 0 of 1, batches of 16",
        "batches": "epoch 0: at batch 1 of 7, 16 of this rank's 100 samples",
        "own": "epoch 5: at 20 samples of all ranks, batches of 20",
        "own_batches": "epoch 5: at batch 1 of 3, 20 of this rank's 50 samples",
        # Not in a loop that counts.
        "sampler": "epoch 0: 33 of 100 samples for rank 2 of 3, in order",
        "eval_sampler": "33 of 100 samples for rank 2 of 3",
    })
    gone = "(uninitialized or moved out)"
    for name in ("zeroed", "garbage", "no_sampler"):
        value = inner_value(session, variables[name])
        assert value == gone, f"{name}: {value}"
    session.go_on()
    expect(2, {"loader": f"epoch 3: at 56 of 100 samples, {in_all}"})
    made.breakpoints[SOURCE] = [{"line": counted}]
    session.set_breakpoints()
    for times, seen in (3, 33), (4, 66):
        session.go_on()
        expect(times, {})
        # A reference: its parts are shown, and the summary is that of its target.
        has(session.variables()["sampler"][0], f"epoch 0: at {seen} of 100 samples, 33 for rank 2 of 3, in order")
    made.breakpoints[SOURCE] = [{"line": in_run}]
    session.set_breakpoints()
    for times, step in (5, 1), (6, 2):
        session.go_on()
        variables = expect(times, {
            "run": f"epoch 0, step {step}, {8 * step} samples of the epoch seen",
            "sampler": f"epoch 0: at {8 * step} of 100 samples, 100 for rank 0 of 1, in order",
        })
    assert inner_value(session, variables["garbage"]) == gone
    made.clear_breakpoints()
    session.go_on()
    made.all_over()
    assert session.code == 0, made.say()
