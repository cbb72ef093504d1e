"""Runs the conformance kit against `cargo ddp launch` and compares its facts with what is expected here, and with
torchrun's own (torchrun.json, 2.13.0).

    python3 tests/kit/check.py [--quick] [--launcher PATH] [--table]

--quick leaves out the scenarios that wait for 10 s; --table prints what both launchers did as the table of
docs/measurements/launcher.md. Exits with 1 and says which expectation failed.
"""
import argparse, json, signal, subprocess, sys, tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEMPLATE = "{launcher} launch --nproc {{n}} --max-restarts {{r}} --backoff 0 {{extra}} -- {{worker}}"
OPTIONS = ["--tee=--log-dir={logdir}", "--redirect=--log-dir={logdir} --show=none", "--grace=--grace={s}",
           "--rank-filter=--show={ranks}", r"--root-re=(?:error|warning): rank (\d+)"]
SLOW = {"sibling_ignores_term", "signal_TERM_workers_ignore", "hang_sleep", "hang_sigstop"}

# How long, in seconds, after a signal or a death everything may take; the machine may be busy.
SOON, GRACE_2, GRACE_10 = 2.0, 5.0, 14.0


def ends(code, within=None):
    def check(ours, torchrun):
        yield ours["exit_code"] == code, f"exit code {code}"
        yield ours["orphans_left"] == [], "no process is left"
        if within:
            yield ours["gone_s"] is not None and ours["gone_s"] < within, f"all is gone within {within} s"
    return check


def fails(code):
    def check(ours, torchrun):
        yield from ends(code)(ours, torchrun)
        yield ours["attempts_seen"] == {"0": 1, "1": 1}, "one attempt"
        yield max(ours["death_to_sibling_signal_s"]) < SOON, "the other rank is signaled soon"
        yield ours["signals_to_workers"] == ["TERM"], "by SIGTERM"
    return check


def restarts(code, attempts):
    def check(ours, torchrun):
        yield from ends(code)(ours, torchrun)
        yield ours["attempts_seen"] == {"0": attempts, "1": attempts}, f"{attempts} attempts"
        info = [line.split(":", 1)[1].split(",") for line in ours.get("start_info", [])]
        yield [count for count, _ in info] == [f"restart_count={i}" for i in range(attempts)], "the restart count"
        yield len({port for _, port in info}) == attempts, "each attempt has a port of its own"
        yield max(ours["death_to_restart_s"], default=0) < SOON, "restarts come soon"
    return check


def lines(code=0):
    def check(ours, torchrun):
        yield from ends(code)(ours, torchrun)
        yield ours["lines_whole"] == ours["lines_expected"] and ours["fragments"] == 0, "every line is complete"
    return check


def last_words(ours, torchrun):
    yield from ends(1)(ours, torchrun)
    # Both ranks write and fail. The second is asked to stop as soon as the first has ended, even while it still writes.
    yield max(ours["whole_per_rank"].values()) * 2 == ours["lines_expected"], "the first to end has all its lines"
    yield ours["fragments"] == 0, "no line is torn"


def env(ours, torchrun):
    yield from ends(0)(ours, torchrun)
    for rank, worker in enumerate(ours["workers"]):
        added, theirs = worker["added"], torchrun["workers"][rank]["added"]
        missing = {name for name in theirs if name.startswith(("TORCHELASTIC", "ROLE", "GROUP", "LOCAL", "WORLD", "RANK", "MASTER"))} - set(added)
        # torchrun's agent hosts the store; ours does not, so it leaves this variable out.
        missing -= {"TORCHELASTIC_USE_AGENT_STORE"}
        yield not missing, f"torchrun's variables ({missing})"
        same = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK")]
        yield all(added[name] == theirs[name] for name in same), "with torchrun's values"


def partial(ours, torchrun):
    yield from ends(0)(ours, torchrun)
    yield all(ours["half_lines_joined"].values()), "halves of lines are joined"
    yield ours["non_utf8_kept"] and ours["tail_without_newline_shown"], "bytes and a last line without end are kept"


def log_layout(ours, torchrun):
    yield from ends(0)(ours, torchrun)
    files = {f"1/attempt-{a}/rank-{r}.{s}.log" for a in (0, 1) for r in (0, 1) for s in ("stdout", "stderr")}
    yield files <= set(ours["files"]), "a log of each stream, rank and attempt"


def all_of(*checks):
    def check(ours, torchrun):
        for one in checks:
            yield from one(ours, torchrun)
    return check


def fact(name, value, words):
    def check(ours, torchrun):
        yield ours[name] == value, words
    return check


EXPECTED = {
    "ok_2": ends(0), "ok_8": ends(0), "ok_32": ends(0),
    "tmp_litter": all_of(ends(0), fact("left_in_TMPDIR", [], "nothing is left in TMPDIR")),
    "env": env,
    "fail_exit3": fails(3), "fail_exit255": fails(255),
    "fail_sigkill": fails(137), "fail_sigsegv": fails(139), "fail_sigabrt": fails(134),
    "restart_until_ok": restarts(0, 3), "restart_exhausted": restarts(3, 3),
    "early_exit0_others_run": all_of(ends(0), fact("zombie_while_others_run", False, "no zombie")),
    "early_exit0_then_other_fails": restarts(5, 2),
    "sibling_ignores_term": ends(1, GRACE_10), "sibling_ignores_term_grace2": ends(1, GRACE_2),
    "grandchildren_on_failure": ends(1), "grandchildren_on_restart": ends(1),
    "signal_TERM": ends(143, SOON), "signal_INT": ends(130, SOON), "signal_HUP": ends(129, SOON), "signal_QUIT": ends(131, SOON),
    # The kit's workers exit on these signals; for the launcher that is a failure by the signal.
    "signal_USR1": ends(138, SOON), "signal_USR2": ends(140, SOON),
    "signal_KILL": ends(-9, SOON),
    "signal_TERM_workers_ignore": ends(143, GRACE_10), "signal_TERM_workers_ignore_grace2": ends(143, GRACE_2),
    "signal_TERM_twice_workers_ignore": ends(143, SOON + 1), "signal_INT_twice_workers_ignore": ends(130, SOON + 1),
    "signal_TERM_3x_workers_ignore": ends(143, SOON + 2), "signal_INT_3x_workers_ignore": ends(130, SOON + 2),
    "signal_TERM_workers_checkpoint_2s": all_of(ends(143, GRACE_2), fact("workers_saved", 2, "both workers could save")),
    "signal_TERM_while_starting": lambda ours, torchrun: (
        (one["orphans_left"] == [] and one["gone_s"] < SOON, f"all processes are gone, asked to stop after {delay} s") for delay, one in ours.items()
    ),
    "hang_sleep": ends(143), "hang_sigstop": ends(143, SOON),
    "lines_short": lines(), "lines_20k": lines(), "lines_block_buffered": lines(),
    "lines_short_tee": lines(), "lines_20k_tee": lines(), "lines_block_buffered_tee": lines(),
    "last_words": last_words, "last_words_tee": last_words, "flood": lines(), "flood_tee": lines(),
    "partial_lines": partial, "partial_lines_tee": partial,
    "log_layout": log_layout,
    "rank_filter": all_of(ends(0), fact("ranks_shown", ["1"], "only the chosen rank is shown")),
    "error_file": all_of(ends(1), fact("message_shown", True, "the message is shown"), fact("stack_shown", True, "and the trace-back"),
                         lambda ours, torchrun: [("kit-marker-4711" in json.dumps(ours["parent_error_file"]), "an outer launcher's error file")]),
    "root_cause": all_of(ends(7), fact("reported_root_rank", ["3", "3", "3"], "the first death is the cause")),
    "missing_program": ends(127), "not_executable": ends(126),
    "missing_program_restarts": all_of(ends(127), fact("mentions", 1, "reported once, not retried")),
    "stdin": all_of(ends(0), lambda ours, torchrun: [(sorted(ours["stdin_seen"]) == ["got=[],rank=0", "got=[],rank=1"], "no rank reads stdin unasked")]),
    "concurrent_10": lambda ours, torchrun: [(ours["failures"] == 0 and ours["distinct_ports"] == 10, "ten jobs at once all run")],
}


# The faults, in the words of the table.
TABLE = {
    "a rank exits with 3": "fail_exit3", "a rank gets SIGKILL": "fail_sigkill", "a rank gets SIGSEGV": "fail_sigsegv",
    "a rank fails, and may be restarted twice": "restart_until_ok",
    "a rank fails, another ignores SIGTERM": "sibling_ignores_term",
    "the same, with a grace period of 2 s": "sibling_ignores_term_grace2",
    "a rank with children in and out of its session fails": "grandchildren_on_failure",
    "the launcher gets SIGTERM": "signal_TERM", "the launcher gets SIGINT": "signal_INT", "the launcher gets SIGHUP": "signal_HUP",
    "the launcher gets SIGUSR1": "signal_USR1", "the launcher gets SIGKILL": "signal_KILL",
    "SIGTERM, and workers ignore it": "signal_TERM_workers_ignore",
    "SIGINT twice, and workers ignore it": "signal_INT_twice_workers_ignore",
    "SIGTERM, and workers save for 2 s": "signal_TERM_workers_checkpoint_2s",
    "a rank is stopped (SIGSTOP); after 10 s SIGTERM": "hang_sigstop",
    "2,000 lines of 20 kB from 4 ranks": "lines_20k", "600,000 lines (60 MB) from 2 ranks": "flood",
    "lines that ranks write in halves": "partial_lines",
    "rank 3 fails, the others 20 ms later": "root_cause",
    "the program does not exist": "missing_program",
    "something on standard input": "stdin",
    "ten jobs at once": "concurrent_10",
}


def outcome(facts):
    """The outcome of a launcher, in words."""
    if not facts:
        return "not tried"
    parts = []
    if "exit_code" in facts:
        parts.append(f"exit code {facts['exit_code']}")
    if "failures" in facts:
        parts.append(f"{facts['started'] - facts['failures']} of {facts['started']} ran")
    if facts.get("gone_s"):
        parts.append(f"all gone after {facts['gone_s']:.2f} s")
    if facts.get("death_to_sibling_signal_s") and not facts.get("death_to_restart_s"):
        parts.append(f"the others signaled after {max(facts['death_to_sibling_signal_s']):.3f} s")
    if facts.get("death_to_restart_s"):
        parts.append(f"restarted after {max(facts['death_to_restart_s']):.2f} s")
    if "orphans_left" in facts:
        left = len(facts["orphans_left"])
        parts.append(f"**{left} processes left**" if left else "none left")
    if facts.get("workers_saved") and facts.get("signals_to_workers"):
        parts.append(f"{facts['workers_saved']} of 2 saved")
    if "lines_whole" in facts:
        torn = facts["lines_expected"] - facts["lines_whole"]
        parts.append(f"**{torn} lines torn or merged**" if torn else "all lines complete")
    if "half_lines_joined" in facts:
        parts.append("halves joined" if all(facts["half_lines_joined"].values()) else "**halves mixed**")
    if "reported_root_rank" in facts:
        parts.append(f"named rank {', '.join(sorted(set(facts['reported_root_rank'])))}")
    if "output_lines" in facts:
        parts.append(f"{facts['output_lines']} lines of output")
    if "stdin_seen" in facts:
        readers = [one for one in facts["stdin_seen"] if "got=[]" not in one]
        parts.append("a rank read it" if readers else "no rank reads it by default")
    return ", ".join(parts)


def table(ours, torchrun):
    print("| fault | torchrun 2.13 | cargo ddp launch |\n|---|---|---|")
    for words, name in TABLE.items():
        if name in ours:
            print(f"| {words} | {outcome(torchrun.get(name))} | {outcome(ours[name])} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--launcher", default=HERE.parents[1] / "target/debug/cargo-ddp")
    args = parser.parse_args()
    # Programs in the background (`nohup … &`) ignore these signals, and so would the launchers that the kit sends them to.
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(ignored, signal.SIG_DFL)
    chosen = [name for name in EXPECTED if not (args.quick and name in SLOW)]
    with tempfile.TemporaryDirectory() as folder:
        kit = [sys.executable, HERE / "run_kit.py", TEMPLATE.format(launcher=args.launcher), *OPTIONS,
               f"--only={','.join(chosen)}", f"--work={folder}", f"--out={folder}/facts.json"]
        done = subprocess.run(kit, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode != 0:
            sys.exit(f"the kit failed:\n{done.stdout}")
        ours = json.loads(Path(folder, "facts.json").read_text())["scenarios"]
    torchrun = json.loads((HERE / "torchrun.json").read_text())["scenarios"]
    failed = 0
    for name in chosen:
        facts = ours.get(name)
        if not isinstance(facts, dict):
            checks = [(False, f"the scenario ran ({facts})")]
        else:
            checks = list(EXPECTED[name](facts, torchrun.get(name)))
        wrong = [words for holds, words in checks if not holds]
        failed += bool(wrong)
        print(f"{'FAILED' if wrong else 'ok':6}  {name}  {len(checks)} expectations{''.join(f'; not: {words}' for words in wrong)}")
        if wrong:
            print(f"        ours:     {json.dumps(facts)}\n        torchrun: {json.dumps(torchrun.get(name))}")
    if args.table:
        table(ours, torchrun)
    print(f"{len(chosen) - failed} of {len(chosen)} scenarios are as expected")
    sys.exit(failed > 0)


main()
