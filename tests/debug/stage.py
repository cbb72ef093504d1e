"""What the scenarios share: their arguments, the editor, and the checks of what it shows."""
import os, re, subprocess, sys, tempfile
import adapters
from editor import Editor, generate

NAME, PROJECT, BINARY = sys.argv[1:4]
ADAPTER = adapters.chosen()
SOURCE = os.environ.get("DDP_TEST_SOURCE", os.path.join(PROJECT, "src/main.rs"))
LINE = next(n for n, line in enumerate(open(SOURCE), 1) if "// BREAK" in line)
SNAPSHOTS = tempfile.mkdtemp(prefix="ddp-debug-")
editors = []
if not NAME.startswith("rounds"):    # which measure; on a busy machine, the others expect all ranks at their own breakpoint
    os.environ.setdefault("DDP_DEBUG_PATIENCE", "5")


def program(epochs, snapshots):
    """The program's arguments."""
    return ["--total-epochs", str(epochs), "--snapshots", snapshots]


ARGS = program(2, SNAPSHOTS)


def editor(nproc, breakpoint=True):
    generate(PROJECT, nproc, ADAPTER)
    made = Editor(PROJECT, ADAPTER)
    editors.append(made)
    if breakpoint:
        made.set_breakpoint("src/main.rs", LINE)
    return made


def run(nproc, *more, args=ARGS):
    return ["ddp", "run", "--bin", BINARY, "--nproc", str(nproc), *more, "--", *args]


def ddp(*args):
    return subprocess.run([os.environ["DDP_TEST_CARGO_DDP"], "ddp", *args], cwd=PROJECT, stdout=subprocess.PIPE, check=True).stdout


def has(value, pattern):
    assert re.search(pattern, value), f"{pattern!r} is not in {value!r}"


def finish(made, stopped):
    """Continues one rank, and so all."""
    made.clear_breakpoints()
    stopped[0].go_on()
    for session in made.all_over():
        assert session.code == 0 and session.error is None, f"{session.name} should end with 0\n{made.say()}"
