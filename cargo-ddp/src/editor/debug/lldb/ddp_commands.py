"""The commands of the debug console: `ddp group`, `ddp only`, `ddp go`, `ddp break`."""
import argparse, shlex
import ddp_group


class Parser(argparse.ArgumentParser):
    """Raises instead of ending the process, which is the debugger's."""

    def error(self, message):
        raise ValueError(f"{message}\n{self.format_usage()}")

    def exit(self, _status=0, message=None):
        raise ValueError(message or "")


class Command:
    """What lldb calls for `ddp NAME ARGUMENTS`."""
    name = summary = None

    def __init__(self, _debugger, _dict):
        self.parser = Parser(prog=f"ddp {self.name}", description=self.summary, add_help=False)
        self.add_arguments()

    def __call__(self, debugger, text, _context, result):
        try:
            arguments = self.parser.parse_args(shlex.split(text))
            member = ddp_group.members.get(debugger.GetID())
            if member is None:
                raise ValueError("this session is not part of a group of ranks")
            result.PutCString(self.run(member, arguments))
        except ValueError as err:
            result.SetError(str(err))

    def get_short_help(self):
        return self.summary

    def get_long_help(self):
        return self.parser.format_help()

    def add_arguments(self):
        pass


def check_rank(member, rank):
    ranks = member.mail.ranks()
    if rank not in ranks:
        raise ValueError(f"rank {rank} not found (debugged here: {', '.join(map(str, ranks))})")


class Group(Command):
    name, summary = "group", "Stop and resume all ranks together (on, the default), or each by itself (off)."

    def add_arguments(self):
        self.parser.add_argument("state", choices=["on", "off"])

    def run(self, member, arguments):
        member.post(member.switch, arguments.state == "on")
        return "ranks stop and continue together" if arguments.state == "on" else "each rank stops and continues by itself"


class Only(Command):
    name, summary = "only", "Let only this rank move, and hold all others; `ddp only off` or `ddp go` ends it."

    def add_arguments(self):
        self.parser.add_argument("rank", metavar="RANK|off")

    def run(self, member, arguments):
        if arguments.rank == "off":
            member.post(member.stop_all)
            return "all ranks move again"
        if not arguments.rank.isdigit():
            raise ValueError(f"invalid rank `{arguments.rank}`: expected a number, or off")
        check_rank(member, int(arguments.rank))
        member.post(member.hold_others, int(arguments.rank))
        return f"only rank {arguments.rank} moves; `ddp go` lets all ranks continue"


class Go(Command):
    name, summary = "go", "Let all ranks continue."

    def run(self, member, _arguments):
        if not member.mode.on:
            raise ValueError("each rank continues by itself; `ddp group on` lets them continue together")
        member.post(member.go)
        return "all ranks continue"


class Break(Command):
    name, summary = "break", "Set a breakpoint in some ranks only."

    def add_arguments(self):
        self.parser.add_argument("place", metavar="FILE:LINE|FUNCTION")
        self.parser.add_argument("--rank", required=True, metavar="RANK[,RANK…]")

    def run(self, member, arguments):
        if not all(rank.isdigit() for rank in arguments.rank.split(",")):
            raise ValueError(f"invalid --rank `{arguments.rank}`: expected ranks such as 0,1")
        ranks = [int(rank) for rank in arguments.rank.split(",")]
        for rank in ranks:
            check_rank(member, rank)
        for rank in ranks:
            if rank != member.rank:
                member.mail.send({"break": arguments.place, "from": member.rank}, to=rank)    # which reports here
        return f"rank {member.rank}: {member.break_at(arguments.place)}" if member.rank in ranks else ""


def load(run, module):
    """Defines the commands. `run` runs a command of lldb, and `module` is the module that lldb has imported."""
    run('command container add -h "The ranks of this job." ddp')
    for command in (Group, Only, Go, Break):
        run(f"command script add -s asynchronous -c {module}.{__name__}.{command.__name__} ddp {command.name}")
