"""`ranks EXPR` and `ranks diff`: compare the ranks in the debug console.

The rank of the console asks the others, and each answers from its member's thread. A question has to be answered soon, because
that thread does nothing else meanwhile, and its answer has to fit into a datagram. So values are compared by checksums of their
parts ("leaves": a number, a string, a tensor), and large tensors by checksums of pieces.
"""
import collections, itertools, re, signal, time
import lldb
import ddp_group
from ddp_commands import Parser
from ddp_names import rust_name
from ddp_pieces import checksums, first_difference, first_element
from ddp_steps import DEEPEST, Place, is_own
from ddp_tensor import Tensor
from ddp_values import Leaf, Leaves, Memory, digest_of, find_value, shorten, text_of

ANSWER = 5              # seconds for an answer
TOTAL = 8               # seconds for a comparison of all variables
PAGE = 1                # seconds after which an answer goes without the rest of the variables, and
PAGE_SIZE = 40_000      # bytes
LARGE = 256 << 20       # bytes of a larger tensor that are compared


class Absent(Exception):
    """Why a rank has no value."""


# --- what a rank answers ----------------------------------------------------------------------------------------------

def _short_name(frame, sources):
    """A function's name; of a user's own one, without the crate."""
    name = rust_name(frame)
    own = is_own(str(frame.GetLineEntry().GetFileSpec()), sources)
    return re.sub(r"^\w+::(?=\w)", "", name) if own else name


def _frame(member, question):
    process = member.process
    if process is None or process.GetState() != lldb.eStateStopped:
        raise Absent("running")
    if "frame" in question:    # of the rank that asks
        thread, index = question["frame"]
        return process.GetThreadByID(thread).GetFrameAtIndex(index)
    main = process.GetThreadByID(process.GetProcessID())
    for index in range(min(main.GetNumFrames(), DEEPEST)):
        frame = main.GetFrameAtIndex(index)
        if frame.GetFunctionName() == question["function"]:
            return frame
    raise Absent(f"not in {question['shown']}")


def _answers(function):
    """Makes the answer of what `function` returns for the frame, and registers it."""

    def answer(member, question):
        try:
            return {"is": function(member, _frame(member, question), question)}
        except Exception as why:    # of whatever is in memory
            return {"absent": shorten(str(why) or type(why).__name__)}

    ddp_group.questions[function.__name__] = answer
    return function


def _describe(member, value, name):
    leaves = Leaves(member.process, value, name).found
    large = [n for n, leaf in enumerate(leaves) if leaf.content and leaf.digest is None]
    return {"name": name, "line": value.GetDeclaration().GetLine(), "text": text_of(value), "leaves": len(leaves),
            "key": digest_of(*(leaf.key() for leaf in leaves)), "large": large}


@_answers
def describe_value(member, frame, question):
    return _describe(member, find_value(frame, question["expression"]), question["expression"])


@_answers
def describe_variables(member, frame, question):
    """Those from number `start`, and the number of the next one. (Of several with one name, the visible one.)"""
    names = list(dict.fromkeys(value.GetName() for value in frame.GetVariables(True, True, False, True)))
    found, size, end = [], 0, time.monotonic() + PAGE
    at = question["start"]
    while at < len(names) and size < PAGE_SIZE and time.monotonic() < end:
        try:
            value = frame.GetValueForVariablePath(names[at])
            if value.IsValid():
                found.append(_describe(member, value, names[at]))
                size += len(str(found[-1]))
        except Exception:    # of whatever is in memory
            pass
        at += 1
    line = frame.GetLineEntry()
    place = f"{line.GetFileSpec().GetFilename()}:{line.GetLine()}"
    return {"variables": found, "next": at if at < len(names) else None, "place": place}


@_answers
def leaf_keys(member, frame, question):
    """The checksum of each leaf."""
    expression = question["expression"]
    return [leaf.key() for leaf in Leaves(member.process, find_value(frame, expression), expression).found]


@_answers
def describe_leaf(member, frame, question):
    expression = question["expression"]
    return Leaves(member.process, find_value(frame, expression), expression).found[question["number"]]


@_answers
def piece_checksums(member, frame, question):
    value = find_value(frame, question["expression"])
    for child in question["path"]:
        value = value.GetChildAtIndex(child)
    address, size, _ = Tensor(value).content()
    if question["start"] + question["size"] > size:
        raise Absent("changed")
    with Memory(member.process, address) as memory:
        return checksums(memory.read, question["start"], question["size"], question["piece"])


# --- the rank that asks -----------------------------------------------------------------------------------------------

class Comparison:
    """Of one frame of this rank with the same function's in all others."""

    def __init__(self, member, frame):
        self.member, self.end = member, time.monotonic() + TOTAL
        self.frame = [frame.GetThread().GetThreadID(), frame.GetFrameID()]
        self.function = frame.GetFunctionName()
        if not self.function:
            raise ValueError("the selected frame has no function name: select a frame of your own code")
        self.shown = _short_name(frame, member.sources)
        self.ranks = sorted({*member.mail.ranks(), member.rank})

    def ask(self, what, each=None, **question):
        """What ranks answer, and why others do not, by rank. `each`: the ranks, with more for each one's question."""
        questions = {rank: {"what": what, "function": self.function, "shown": self.shown, **question, **more}
                     for rank, more in (each or dict.fromkeys(self.ranks, {})).items()}
        answers = {}
        if own := questions.pop(self.member.rank, None):
            answers[self.member.rank] = ddp_group.questions[what](self.member, {**own, "frame": self.frame})
        answers.update(self.member.ask(questions, ANSWER))
        absent = {rank: answers.get(rank, {"absent": "no answer"})["absent"] for rank in (each or self.ranks)
                  if "is" not in answers.get(rank, ())}
        return {rank: answers[rank]["is"] for rank in sorted(answers) if "is" in answers[rank]}, absent

    def ask_all(self, what, ranks, **question):
        if time.monotonic() > self.end:
            raise Absent(f"stopped after {TOTAL} s")
        found, absent = self.ask(what, dict.fromkeys(ranks, {}), **question)
        for rank, why in absent.items():
            raise Absent(f"rank {rank}: {why}")
        return found

    def lines(self, texts, keys=None):
        """One line per rank. `keys`: which ranks have the same value, where the text does not tell."""
        keys = keys or {}
        counts = collections.Counter(keys.values())
        most, count = counts.most_common(1)[0] if counts else (None, 0)
        marks = {rank for rank, key in keys.items() if key != most} if 2 * count > len(keys) > 2 else ()
        width = len(str(max(texts)))
        return [f"rank {rank:<{width}}  {texts[rank]}" + ("  <- differs" if rank in marks else "") for rank in sorted(texts)]

    def differ(self, described):
        """Where descriptions of one variable differ: a heading for the first part that does, its text and key by rank, and a line
        about a tensor's values or None. Or None: they agree."""
        first = next(iter(described.values()))
        expression = first["name"]
        keys = {rank: one["key"] for rank, one in described.items()}
        if len(set(keys.values())) == 1:
            return self._differ_in_large(expression, first["large"], described)
        texts = {rank: one["text"] for rank, one in described.items()}
        try:
            columns = self.ask_all("leaf_keys", described, expression=expression)
            part = next(n for n, column in enumerate(itertools.zip_longest(*columns.values())) if len(set(column)) > 1)
            leaves = self._leaves(expression, part, described)
        except (Absent, StopIteration):    # ranks were resumed, or have different numbers of parts
            return expression, texts, keys, None
        names = {leaf.name for leaf in leaves.values()}
        if len(names) > 1:    # such as variants of an enum
            return expression, texts, keys, None
        note, _ = self._first_value(expression, leaves)
        return names.pop(), {rank: leaf.text for rank, leaf in leaves.items()}, {rank: leaf.key() for rank, leaf in leaves.items()}, note

    def _leaves(self, expression, number, ranks):
        return {rank: Leaf(*leaf) for rank, leaf in self.ask_all("describe_leaf", ranks, expression=expression, number=number).items()}

    def _differ_in_large(self, expression, numbers, ranks):
        for number in numbers:
            leaves = self._leaves(expression, number, ranks)
            note, keys = self._first_value(expression, leaves)
            if note:
                return next(iter(leaves.values())).name, {rank: leaf.text for rank, leaf in leaves.items()}, keys, note
        return None

    def _first_value(self, expression, leaves):
        """Describes the first value that differs between copies of a tensor. Also returns what each rank has there."""
        contents = [leaf.content for leaf in leaves.values()]
        if contents[0] is None or any(content != contents[0] for content in contents):
            return None, None
        dtype, shape, size, each = contents[0]
        path = next(iter(leaves.values())).path

        def ask(start, length, piece):
            return self.ask_all("piece_checksums", leaves, expression=expression, path=path, start=start, size=length, piece=piece)

        found = first_difference(min(size, LARGE), ask)
        if found is None:
            return None, None
        start, copies = found
        element = first_element(list(copies.values()), each)
        index, rest = [], start // each + element
        for extent in reversed(shape):
            index.insert(0, rest % extent)
            rest //= extent
        tensor = self._own_tensor(expression, path)
        values = {rank: tensor.unpack(copy[element * each:(element + 1) * each]) for rank, copy in copies.items()}
        if not shape and len({leaf.text for leaf in leaves.values()}) > 1:    # which tells it
            return None, None
        shown = ", ".join(f"rank {rank} {_number(value, dtype)}" for rank, value in sorted(values.items()))
        return f"first difference at {index}: {shown}", {rank: copy.hex() for rank, copy in copies.items()}

    def _own_tensor(self, expression, path):
        thread, index = self.frame
        value = find_value(self.member.process.GetThreadByID(thread).GetFrameAtIndex(index), expression)
        for child in path:
            value = value.GetChildAtIndex(child)
        return Tensor(value)


def _number(value, dtype):
    if isinstance(value, float):
        return f"{value:.17g}" if dtype == "float64" else f"{value:.9g}"
    return str(value).lower()


def compare_value(member, frame, expression):
    """`ranks EXPR`."""
    find_value(frame, expression)    # of a bad expression, lldb's error once
    comparison = Comparison(member, frame)
    described, absent = comparison.ask("describe_value", expression=expression)
    texts = {rank: one["text"] for rank, one in described.items()}
    keys, more = {rank: one["key"] for rank, one in described.items()}, []
    try:
        found = comparison.differ(described) if len(described) > 1 else None
        if found:
            name, parts, part_keys, note = found
            keys = part_keys if len(set(keys.values())) == 1 else keys
            if name != expression:
                more = [f"first difference: {name}", *(f"  {line}" for line in comparison.lines(parts, part_keys))]
            elif note:
                more = [note]
    except Absent as why:
        more = [f"not compared completely: {why}"]
    return "\n".join(comparison.lines({**texts, **absent}, keys) + more)


def compare_variables(member, frame):
    """`ranks diff`."""
    comparison = Comparison(member, frame)
    found, absent, places, lines = {rank: {} for rank in comparison.ranks}, {}, {}, []
    each = {rank: {"start": 0} for rank in comparison.ranks}
    while each and time.monotonic() < comparison.end:
        answers, missing = comparison.ask("describe_variables", each)
        absent.update(missing)
        for rank, answer in answers.items():
            found[rank].update({(one["name"], one["line"]): one for one in answer["variables"] if one["leaves"]})
            places[rank] = answer["place"]
        each = {rank: {"start": answer["next"]} for rank, answer in answers.items() if answer["next"] is not None}
    found = {rank: variables for rank, variables in found.items() if rank not in absent}
    if absent:
        lines += comparison.lines(absent)
    if len(found) < 2:
        return "\n".join(lines + ["no other rank to compare with"])
    if len(set(places.values())) > 1:
        lines += ["the ranks are at different lines:", *(f"  {line}" for line in comparison.lines(places))]
    shared = [key for key in found[member.rank] if all(key in variables for variables in found.values())]
    compared = differing = 0
    for key in shared:
        try:
            difference = comparison.differ({rank: variables[key] for rank, variables in found.items()})
        except Absent as why:
            lines.append(f"stopped at {key[0]}, with {len(shared) - compared} of {len(shared)} variables not compared: {why}")
            break
        compared += 1
        if difference:
            differing += 1
            name, texts, keys, note = difference
            lines += [name, *(f"  {line}" for line in comparison.lines(texts, keys)), *([f"  {note}"] if note else [])]
    if each:
        lines.append(f"stopped after {TOTAL} s: there are more variables")
    if not shared:
        return "\n".join(lines + ["this frame has no variables"])
    total = f"variable{'s' if compared != 1 else ''}"
    if differing:
        lines.append(f"{differing} of {compared} {total} differ{'s' if differing == 1 else ''}")
    else:
        lines.append(f"all {compared} {total} agree on {len(found)} ranks")
    return "\n".join(lines)


# --- the command ------------------------------------------------------------------------------------------------------

def _selected_frame(member, context):
    """The frame that the user has selected. Where that is the innermost one only because a stop selects it (an interrupt, a panic),
    the innermost one of the user's own code."""
    process = member.process
    if process is None or process.GetState() != lldb.eStateStopped:
        raise ValueError(f"rank {member.rank} is running: pause it first")
    frame = context.GetFrame()
    if frame.IsValid() and (frame.GetFrameID() or _is_where_it_stopped(frame)
                            or Place(frame.GetThread(), member.sources).frame == 0):
        return frame
    main = process.GetThreadByID(process.GetProcessID())
    return main.GetFrameAtIndex(Place(main, member.sources).frame or 0)


def _is_where_it_stopped(frame):
    """Whether a breakpoint or a step has ended in this frame, and has a source to show."""
    thread = frame.GetThread()
    reason = thread.GetStopReason()
    is_interrupt = reason == lldb.eStopReasonSignal and thread.GetStopReasonDataAtIndex(0) == signal.SIGSTOP
    return reason not in (lldb.eStopReasonNone, lldb.eStopReasonInvalid) and not is_interrupt \
        and frame.GetLineEntry().IsValid() and frame.GetFunctionName() != "rust_panic"


class Ranks:
    """What lldb calls for `ranks …`."""

    def __init__(self, _debugger, _dict):
        self.parser = Parser(prog="ranks", usage="ranks EXPR\n       ranks diff", description=self.get_short_help(), add_help=False)

    def __call__(self, debugger, text, context, result):
        try:
            member = ddp_group.members.get(debugger.GetID())
            if member is None:
                raise ValueError("this session is not part of a group of ranks")
            text = text.strip()
            if not text:
                self.parser.error("an expression, or `diff`, is required")
            frame = _selected_frame(member, context)
            result.PutCString(compare_variables(member, frame) if text == "diff" else compare_value(member, frame, text))
        except ValueError as err:
            result.SetError(str(err))

    def get_short_help(self):
        return "Print the value of an expression on each rank, or all variables of the frame that differ between ranks."

    def get_long_help(self):
        return self.parser.format_help()


def load(run, module):
    """Defines the command, as `ddp_commands.load` does."""
    run(f"command script add -s asynchronous -c {module}.{__name__}.{Ranks.__name__} ranks")
