#!/usr/bin/env python3
"""Runs the scenarios of a launcher conformance kit against any launcher and prints the observed facts as JSON.

  run_kit.py 'torchrun --standalone --nproc-per-node={n} --max-restarts={r} {extra} --no-python {worker}' \
      --tee='--tee=3 --log-dir={logdir}' --redirect='--redirects=3 --log-dir={logdir}' \
      --grace='--shutdown-timeout={s}' --rank-filter='--local-ranks-filter={ranks}' --out torchrun.json

Placeholders of the template: {n} workers, {r} max restarts, {extra} the option groups below (may be absent), {worker} program.
It states facts, it does not judge. Linux only (uses /proc). Standard library only.
Processes are found by a unique KIT_RUN_ID in their environment, whoever their parent is; left-overs are killed by pid.
"""
import argparse, glob, json, os, re, shlex, shutil, signal, subprocess, sys, tempfile, time, uuid

HERE = os.path.dirname(os.path.abspath(__file__))
W = os.path.join(HERE, "workers")
ME = os.getpid()

def stat_of(pid):
    try:
        s = open(f"/proc/{pid}/stat").read()
        return s[s.rindex(")") + 2:].split()  # [state, ppid, pgrp, session, ...]
    except (OSError, ValueError):
        return None

def procs(run_id):
    """pids of all live (not zombie) processes of this run: [(pid, comm, role)]"""
    out, key = [], f"KIT_RUN_ID={run_id}".encode()
    for p in os.listdir("/proc"):
        if not p.isdigit() or int(p) == ME: continue
        try: e = open(f"/proc/{p}/environ", "rb").read()
        except OSError: continue
        if key not in e.split(b"\0"): continue
        try: comm = open(f"/proc/{p}/comm").read().strip()
        except OSError: continue
        st = stat_of(p)
        if st is None or st[0] == "Z": continue
        role = [v for v in e.split(b"\0") if v.startswith(b"KIT_ROLE=")]
        out.append((int(p), comm, role[0][9:].decode() if role else None, st[0]))
    return out

class Run:
    def __init__(self, a, worker, n=2, r=0, env=None, extra="", stdin=subprocess.DEVNULL, pass_fds=(), out="file"):
        self.a, self.id = a, uuid.uuid4().hex
        self.dir = tempfile.mkdtemp(prefix="kit_", dir=a.work); os.mkdir(self.dir + "/tmp"); self.logdir = self.dir + "/logs"
        path = worker if os.path.isabs(worker) else os.path.join(W, worker)
        cmd = a.template.replace("{n}", str(n)).replace("{r}", str(r)).replace("{extra}", extra.replace("{logdir}", self.logdir)).replace("{worker}", path)
        self.cmd = shlex.split(cmd)
        e = dict(os.environ, KIT_RUN_ID=self.id, KIT_DIR=self.dir, KIT_WORKERS=W, KIT_PYTHON=a.python, TMPDIR=self.dir + "/tmp")
        for k in ("OMP_NUM_THREADS", "TORCHELASTIC_ERROR_FILE"): e.pop(k, None)
        e.update(env or {}); self.env = e
        self.out_path = self.dir + "/launcher.out"
        self.t0 = time.time()
        self.cat = None
        with open(self.out_path, "wb") as f:
            if out == "pipe":  # as under a CI runner, `| tee`, or a terminal multiplexer: writes over PIPE_BUF are not atomic
                self.cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=f); f = self.cat.stdin
            self.p = subprocess.Popen(self.cmd, env=e, stdin=stdin, stdout=f, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=pass_fds, cwd=self.dir)
            if self.cat: self.cat.stdin.close()
        self.rc, self.ru, self.t_exit, self.hwm = None, None, None, 0

    def poll(self):
        if self.rc is None:
            # peak RSS from VmHWM: ru_maxrss would include this program's own size, from before the exec
            try: self.hwm = max([self.hwm] + [int(l.split()[1]) for l in open(f"/proc/{self.p.pid}/status") if l.startswith("VmHWM")])
            except OSError: pass
            pid, st, ru = os.wait4(self.p.pid, os.WNOHANG)
            if pid:
                self.rc, self.ru, self.t_exit = os.waitstatus_to_exitcode(st), ru, time.time(); self.p.returncode = self.rc
        return self.rc

    def sig(self, s):
        if self.poll() is None: os.kill(self.p.pid, s)
        return time.time()

    def events(self):
        r = []
        try: lines = open(self.dir + "/events").read().splitlines()
        except OSError: return r
        for l in lines:
            f = l.split(" ", 5)
            # A worker that is asked to stop a second time may lose its `date`.
            if len(f) >= 5 and f[0]: r.append(dict(t=int(f[0]) / 1e9, ev=f[1], rank=f[2], att=int(f[3]), pid=int(f[4]), x=f[5] if len(f) > 5 else ""))
        return r

    def wait_events(self, name, count, timeout=30):
        end = time.time() + timeout
        while time.time() < end:
            if len([e for e in self.events() if e["ev"] == name]) >= count: return True
            if self.poll() is not None: return False
            time.sleep(0.02)
        return False

    def wait_exit(self, timeout):
        end = time.time() + timeout
        while time.time() < end and self.poll() is None: time.sleep(0.005)
        return self.rc is not None

    def wait_gone(self, timeout):
        """launcher has exited and no process of the run is left; returns the time it happened, or None"""
        end = time.time() + timeout
        while time.time() < end:
            self.poll()
            if self.rc is not None and not procs(self.id): return time.time()
            time.sleep(0.02)
        return None

    def finish(self):
        """kill the remaining processes, by pid; return them"""
        left = [p for p in procs(self.id)]
        for pid, *_ in left:
            try: os.kill(pid, signal.SIGKILL)
            except OSError: pass
        end = time.time() + 5
        while self.poll() is None and time.time() < end: time.sleep(0.01)
        return left

    def output(self): return open(self.out_path, "rb").read()

    def base(self, gone_from=None, settle=3.0, timeout=60):
        """waits for the launcher's exit, then settle seconds for stragglers; returns the common facts"""
        ex = self.wait_exit(timeout)
        gone = self.wait_gone(settle) if ex else None
        left = self.finish()
        if self.cat: self.cat.wait(30)
        f = dict(exit_code=self.rc if ex else "still running after %gs" % timeout, wall_s=round((self.t_exit or time.time()) - self.t0, 2),
                 orphans_left=[f"{c}{':' + r if r else ''}" for pid, c, r, s in left if pid != self.p.pid])
        if gone_from:
            f["gone_s"] = round(gone - gone_from, 2) if gone else None
            f["launcher_exit_s"] = round(self.t_exit - gone_from, 2) if ex else None
        if self.ru: f["cpu_s"], f["maxrss_mb"] = round(self.ru.ru_utime + self.ru.ru_stime, 2), round(self.hwm / 1024, 1) if self.hwm else None
        return f

def first(ev, name, **kw):
    for e in sorted(ev, key=lambda e: e["t"]):
        if e["ev"] == name and all(e[k] == v for k, v in kw.items()): return e["t"]

def restarts(r, f):
    ev = r.events(); st = [e for e in ev if e["ev"] == "start"]
    f["attempts_seen"] = {k: len([e for e in st if e["rank"] == k]) for k in sorted({e["rank"] for e in st})}
    f["start_info"] = sorted({f"att{e['att']}:{e['x']}" for e in st})
    d = [e["t"] for e in ev if e["ev"] == "dying"]
    lat = []
    for t in sorted(d):
        nx = [e["t"] for e in st if e["t"] > t]
        if nx: lat.append(round(min(nx) - t, 3))
    if lat: f["death_to_restart_s"] = lat
    kl = []
    for t in sorted(d):
        nx = [e["t"] for e in ev if e["ev"].startswith("got_") and e["t"] > t]
        if nx: kl.append(round(min(nx) - t, 3))
    if kl: f["death_to_sibling_signal_s"] = kl
    f["signals_to_workers"] = sorted({e["ev"][4:] for e in ev if e["ev"].startswith("got_")})

S = {}
def scn(fn): S[fn.__name__] = fn; return fn

@scn
def ok_2(a): return Run(a, "w_true.sh").base()
@scn
def ok_8(a): return Run(a, "w_true.sh", n=8).base()
@scn
def ok_32(a): return Run(a, "w_true.sh", n=32).base()
@scn
def tmp_litter(a):
    r = Run(a, "w_true.sh"); f = r.base(); f["left_in_TMPDIR"] = sorted(os.path.relpath(p, r.dir + "/tmp") for p in glob.glob(r.dir + "/tmp/**", recursive=True) if p != r.dir + "/tmp/")[:8]; return f
@scn
def env(a):
    rd, wr = os.pipe(); os.set_inheritable(wr, True)
    r = Run(a, "w_env.py", pass_fds=(wr,)); f = r.base(); os.close(rd); os.close(wr)
    ds = sorted((json.load(open(p)) for p in glob.glob(r.dir + "/env.*.json")), key=lambda d: d["env"].get("RANK", ""))
    f["workers"] = []
    for d in ds:
        e = d["env"]
        f["workers"].append(dict(added={k: v for k, v in sorted(e.items()) if r.env.get(k) != v and k not in ("_", "PWD", "SHLVL", "OLDPWD")},
            removed=[k for k in r.env if k not in e and k != "_"], own_process_group=d["pgid"] == d["pid"], own_session=d["sid"] == d["pid"],
            child_of_launcher=d["ppid"] == r.p.pid, pdeathsig=d["pdeathsig"], stdin=d["fds"].get("0"), stdout=d["fds"].get("1"),
            extra_fds=sorted(k for k, v in d["fds"].items() if int(k) > 2 and v and "/proc" not in v), signals_at_start=d["sigs"],
            cwd_kept=d["cwd"] == r.dir, master_port_answers=d["master_port_answers"], cpus=len(d["cpus"]), nofile=d["nofile"], core=d["core"]))
    return f
def fail(a, **env):
    r = Run(a, "w_exit.sh", env=env); f = r.base(); ev = r.events(); d = first(ev, "dying")
    if d and r.t_exit: f["death_to_launcher_exit_s"] = round(r.t_exit - d, 3)
    restarts(r, f); return f
@scn
def fail_exit3(a): return fail(a, KIT_CODE="3")
@scn
def fail_exit255(a): return fail(a, KIT_CODE="255")
@scn
def fail_sigkill(a): return fail(a, KIT_SIG="KILL")
@scn
def fail_sigsegv(a): return fail(a, KIT_SIG="SEGV")
@scn
def fail_sigabrt(a): return fail(a, KIT_SIG="ABRT")
@scn
def restart_until_ok(a): r = Run(a, "w_exit.sh", r=3, env=dict(KIT_UNTIL="2")); f = r.base(); restarts(r, f); return f
@scn
def restart_exhausted(a): r = Run(a, "w_exit.sh", r=2); f = r.base(); restarts(r, f); return f
@scn
def early_exit0_others_run(a):
    r = Run(a, "w_early0.sh", env=dict(KIT_OTHERS="3")); r.wait_events("exit0", 1); time.sleep(1.5)
    z = [e["pid"] for e in r.events() if e["ev"] == "exit0" and (stat_of(e["pid"]) or [""])[0] == "Z"]
    f = r.base(); f["zombie_while_others_run"] = bool(z); restarts(r, f); return f
@scn
def early_exit0_then_other_fails(a): r = Run(a, "w_early0.sh", r=1, env=dict(KIT_OTHERS="1", KIT_CODE="5")); f = r.base(); restarts(r, f); return f
@scn
def sibling_ignores_term(a):
    r = Run(a, "w_ignore.sh", env=dict(KIT_RANK="1")); r.wait_events("dying", 1); d = first(r.events(), "dying"); return r.base(gone_from=d, timeout=75)
@scn
def sibling_ignores_term_grace2(a):
    r = Run(a, "w_ignore.sh", env=dict(KIT_RANK="1"), extra=a.grace.replace("{s}", "2")); r.wait_events("dying", 1); d = first(r.events(), "dying"); return r.base(gone_from=d, timeout=75)
@scn
def grandchildren_on_failure(a): r = Run(a, "w_tree.sh", env=dict(KIT_RANK="1")); f = r.base(settle=5); return f
@scn
def grandchildren_on_restart(a):
    r = Run(a, "w_tree.sh", r=1, env=dict(KIT_RANK="1")); f = r.base(settle=5); restarts(r, f); return f
def sigs(a, s, worker="w_tree.sh", again=(), timeout=75, extra="", settle=5):
    r = Run(a, worker, extra=extra); r.wait_events("ready", 2); time.sleep(0.5)
    t = r.sig(s)
    for w in again: time.sleep(w); r.sig(s)
    f = r.base(gone_from=t, timeout=timeout, settle=settle)
    ev = r.events(); f["signals_to_workers"] = sorted({e["ev"][4:] for e in ev if e["ev"].startswith("got_")}); f["workers_saved"] = len([e for e in ev if e["ev"] == "saved"])
    return f
for _s in ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL"):
    S["signal_" + _s] = (lambda s: lambda a: sigs(a, getattr(signal, "SIG" + s), timeout=8 if s in ("USR1", "USR2") else 60))(_s)
S["signal_TERM_workers_ignore"] = lambda a: sigs(a, signal.SIGTERM, "w_ignore.sh")
S["signal_TERM_workers_ignore_grace2"] = lambda a: sigs(a, signal.SIGTERM, "w_ignore.sh", extra=a.grace.replace("{s}", "2"))
S["signal_TERM_twice_workers_ignore"] = lambda a: sigs(a, signal.SIGTERM, "w_ignore.sh", again=(1.0,))
S["signal_INT_twice_workers_ignore"] = lambda a: sigs(a, signal.SIGINT, "w_ignore.sh", again=(1.0,))
S["signal_TERM_3x_workers_ignore"] = lambda a: sigs(a, signal.SIGTERM, "w_ignore.sh", again=(1.0, 1.0))
S["signal_INT_3x_workers_ignore"] = lambda a: sigs(a, signal.SIGINT, "w_ignore.sh", again=(1.0, 1.0))
S["signal_TERM_workers_checkpoint_2s"] = lambda a: sigs(a, signal.SIGTERM, "w_grace.sh")
@scn
def signal_TERM_while_starting(a):
    out = {}
    for d in (0.05, 0.3, 0.6, 0.9, 1.2, 1.5):
        r = Run(a, "w_wait.sh"); time.sleep(d); t = r.sig(signal.SIGTERM); f = r.base(gone_from=t, timeout=40)
        out[str(d)] = dict(exit_code=f["exit_code"], gone_s=f.get("gone_s"), workers_started=len([e for e in r.events() if e["ev"] == "start"]), orphans_left=f["orphans_left"])
    return out
def hang(a, stop):
    r = Run(a, "w_wait.sh"); r.wait_events("ready", 2)
    if stop: os.kill([e["pid"] for e in r.events() if e["ev"] == "ready" and e["rank"] == "1"][0], signal.SIGSTOP)
    noticed = r.wait_exit(10); n = len([e for e in r.events() if e["ev"] == "start"])
    txt = r.output().decode(errors="replace"); t = r.sig(signal.SIGTERM); f = r.base(gone_from=t)
    f["reacted_within_10s"] = noticed or n > 2; f["said_something"] = bool(re.search(r"hang|stall|stopped|heartbeat|no progress", txt, re.I)); return f
@scn
def hang_sleep(a): return hang(a, False)
@scn
def hang_sigstop(a): return hang(a, True)
def torn(r, n, count, ln):
    data = r.output(); ok = bad = 0; seen = {}
    pat = re.compile(rb"(\d+):(\d+):([a-z])\3*\Z")
    for l in data.split(b"\n"):
        i = re.search(rb"\d+:\d+:[a-z]", l)
        if not i:
            if re.search(rb"([a-z])\1{30}", l): bad += 1
            continue
        body = l[i.start():]
        if pat.match(body) and len(body) == ln - 1: ok += 1; k = body.split(b":")[0].decode(); seen[k] = seen.get(k, 0) + 1
        else: bad += 1
    return dict(lines_expected=n * count, lines_whole=ok, fragments=bad, whole_per_rank=seen)
def lines(a, n, count, ln, mode, extra="", fail_rank=None, r_=0):
    e = dict(KIT_LINES=str(count), KIT_LEN=str(ln), KIT_WMODE=mode)
    if fail_rank is not None: e["KIT_RANK"] = str(fail_rank)
    r = Run(a, "w_lines.py", n=n, env=e, extra=extra, out="pipe"); f = r.base(timeout=90); f.update(torn(r, n, count, ln)); f["MB"] = round(n * count * ln / 1e6, 1); os.truncate(r.out_path, 0); return f
S["lines_short"] = lambda a: lines(a, 4, 5000, 200, "line")
S["lines_20k"] = lambda a: lines(a, 4, 500, 20000, "line")
S["lines_block_buffered"] = lambda a: lines(a, 4, 5000, 301, "block")
S["lines_short_tee"] = lambda a: lines(a, 4, 5000, 200, "line", a.tee)
S["lines_20k_tee"] = lambda a: lines(a, 4, 500, 20000, "line", a.tee)
S["lines_block_buffered_tee"] = lambda a: lines(a, 4, 5000, 301, "block", a.tee)
S["last_words"] = lambda a: lines(a, 2, 5000, 100, "line", fail_rank=1)
S["last_words_tee"] = lambda a: lines(a, 2, 5000, 100, "line", a.tee, fail_rank=1)
S["flood"] = lambda a: lines(a, 2, 300000, 100, "block")
S["flood_tee"] = lambda a: lines(a, 2, 300000, 100, "block", a.tee)
def partial(a, extra):
    r = Run(a, "w_partial.py", extra=extra); f = r.base(); o = r.output()
    f["half_lines_joined"] = {k: (b"HALF%sAHALF%sB" % (k.encode(), k.encode())) in o for k in "01"}
    f["non_utf8_kept"] = b"BYTES0:\xff\xfe\x80:END" in o; f["tail_without_newline_shown"] = b"TAIL0" in o
    f["tail_lines"] = [l.decode(errors="backslashreplace") for l in o.split(b"\n") if b"HALF" in l or b"BAR" in l or b"TAIL" in l or b"BYTES" in l]; return f
S["partial_lines"] = lambda a: partial(a, "")
S["partial_lines_tee"] = lambda a: partial(a, a.tee)
@scn
def log_layout(a):
    r = Run(a, "w_exit.sh", r=1, env=dict(KIT_UNTIL="1"), extra=a.redirect); f = r.base()
    f["files"] = sorted(re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}_\w{8}", "<run_id>_<random>", os.path.relpath(p, r.logdir)) for p in glob.glob(r.logdir + "/**", recursive=True) if os.path.isfile(p)); return f
@scn
def rank_filter(a):
    r = Run(a, "w_partial.py", extra=a.rank_filter.replace("{ranks}", "1")); f = r.base(); o = r.output(); f["ranks_shown"] = [k for k in "01" if f"HALF{k}A".encode() in o]; return f
@scn
def error_file(a):
    pf = tempfile.mktemp(prefix="parent_err_", dir=a.work)
    r = Run(a, "w_errfile.py", env=dict(KIT_RANK="1", TORCHELASTIC_ERROR_FILE=pf)); f = r.base(); o = r.output()
    f["message_shown"] = b"kit-marker-4711" in o; f["stack_shown"] = b"kit-stack-4712" in o
    try: f["parent_error_file"] = json.load(open(pf))
    except Exception as e: f["parent_error_file"] = type(e).__name__
    return f
@scn
def root_cause(a):
    res = []
    for _ in range(3):
        r = Run(a, "w_root.sh", n=4, env=dict(KIT_RANK="3")); f = r.base(); o = r.output().decode(errors="replace")
        m = re.search(a.root_re, o, re.S | re.I); res.append(m.group(1) if m else None)
    f["true_root_rank"] = "3"; f["reported_root_rank"] = res; return f
@scn
def missing_program(a): r = Run(a, "/nonexistent/kit_program"); f = r.base(); f["output_lines"] = len(r.output().splitlines()); f["last_line"] = (r.output().decode(errors="replace").strip().splitlines() or [""])[-1]; return f
@scn
def not_executable(a): r = Run(a, "not_executable.sh"); f = r.base(); f["output_lines"] = len(r.output().splitlines()); f["last_line"] = (r.output().decode(errors="replace").strip().splitlines() or [""])[-1]; return f
@scn
def missing_program_restarts(a): r = Run(a, "/nonexistent/kit_program", r=2); f = r.base(); f["mentions"] = r.output().count(b"/nonexistent/kit_program"); return f
@scn
def stdin(a):
    p = subprocess.Popen(["/bin/sh", "-c", "echo hello-kit; sleep 4"], stdout=subprocess.PIPE)
    r = Run(a, "w_stdin.sh", stdin=p.stdout); f = r.base(); p.wait(); f["stdin_seen"] = [e["x"] for e in r.events() if e["ev"] == "stdin"]; return f
@scn
def concurrent_10(a):
    t0 = time.time(); rs = [Run(a, "w_exit.sh", env=dict(KIT_RANK="none", KIT_OTHERS="2")) for _ in range(10)]
    fs = [r.base(timeout=90) for r in rs]
    ports = [re.search(r"port=(\S+)", e["x"]).group(1) for r in rs for e in r.events() if e["ev"] == "start" and e["rank"] == "0"]
    return dict(exit_codes=[f["exit_code"] for f in fs], failures=sum(f["exit_code"] != 0 for f in fs), distinct_ports=len(set(ports)), started=len(ports), wall_s=round(time.time() - t0, 1))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("template"); p.add_argument("--tee", default=""); p.add_argument("--redirect", default=""); p.add_argument("--grace", default=""); p.add_argument("--rank-filter", default="")
    p.add_argument("--root-re", default=r"root cause.*?rank\s*[:=]?\s*(\d+)"); p.add_argument("--python", default=sys.executable); p.add_argument("--work", default=tempfile.gettempdir())
    p.add_argument("--only"); p.add_argument("--skip", default=""); p.add_argument("--out"); p.add_argument("--keep", action="store_true"); p.add_argument("--list", action="store_true")
    a = p.parse_args()
    if a.list: print("\n".join(S)); return
    os.makedirs(a.work, exist_ok=True); a.work = tempfile.mkdtemp(prefix="run_kit_", dir=a.work)
    names = a.only.split(",") if a.only else [n for n in S if n not in a.skip.split(",")]
    needs = {"tee": "tee", "grace2": "grace", "log_layout": "redirect", "rank_filter": "rank_filter"}
    res = dict(template=a.template, date=time.strftime("%F %T"), loadavg_at_start=os.getloadavg(), scenarios={})
    for n in names:
        opt = next((o for k, o in needs.items() if n == k or n.endswith("_" + k)), None)
        if opt and not getattr(a, opt): res["scenarios"][n] = "skipped: no --%s given" % opt; continue
        try: res["scenarios"][n] = S[n](a)
        except Exception as e: res["scenarios"][n] = f"kit error: {type(e).__name__}: {e}"
        print(n, json.dumps(res["scenarios"][n])[:400], file=sys.stderr, flush=True)
        if a.out: json.dump(res, open(a.out, "w"), indent=1)
    if not a.keep: shutil.rmtree(a.work, ignore_errors=True)
    if not a.out: print(json.dumps(res, indent=1))
main()
