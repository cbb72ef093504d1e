//! The configurations, compounds and tasks themselves.

use super::debugger::Debugger;
use super::entry::{Entry, Role, STEP_INPUT};
use super::json::Json;
use crate::editor::debug::FRAME_NAMES;
use crate::project::trainable::{Trainable, Workers};

/// The launcher that is in use, and the callback and formatters that it wrote there: links and files in the git-ignored
/// `.ddp/`, so that nothing of a machine is in launch.json.
const LAUNCHER: &str = "${workspaceFolder}/.ddp/cargo-ddp";
const IMPORT: &str = "command script import \"${workspaceFolder}/.ddp/debug/ddp_debug.py\"";
const INDEX_CACHE: &str = "settings set symbols.enable-lldb-index-cache true";
/// The launcher calls this function once per rank; the callback opens a session for it, and never stops.
const MARKER: [&str; 2] =
    ["breakpoint set -K false -n ddp_start_debugging", "breakpoint command add -F ddp_debug.on_spawn"];
/// rustc's printers for gdb, from the toolchain that the project uses.
const RUST_PRINTERS: &str = "python import subprocess, sys; etc = subprocess.run(['rustc', '--print', 'sysroot'], \
                             capture_output=True, text=True, check=True).stdout.strip() + '/lib/rustlib/etc'; \
                             sys.path.insert(0, etc); gdb.execute('add-auto-load-safe-path ' + etc); \
                             gdb.execute('directory ' + etc)";

/// A separate profile, defined by cargo's environment variables, so that no Cargo.toml has to define it.
pub(super) const RELEASE_PROFILE: &str = "release-with-debug";
const RELEASE_ENV: [(&str, &str); 2] =
    [("CARGO_PROFILE_RELEASE_WITH_DEBUG_INHERITS", "release"), ("CARGO_PROFILE_RELEASE_WITH_DEBUG_DEBUG", "true")];

/// All variables that are ours, in any debugger's configurations.
pub(super) const OUR_ENV: [&str; 5] = ["DDP_DEBUG", "DDP_JOIN", "DDP_JOIN_RANK", RELEASE_ENV[0].0, RELEASE_ENV[1].0];

/// What gdb leaves to the program: what the launcher sends, and SIGPIPE, which a write to a rank that is gone makes and Rust
/// ignores. `noprint`, for gdb 13 loses a process that ends while it would print one of these ("Cannot find user-level
/// thread"), and waits forever.
const SIGNALS: &str = "handle SIGTERM SIGCONT SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGPIPE nostop noprint pass";

/// Whether a debugger command is one of ours, of any debugger.
pub(super) fn is_our_command(command: &str) -> bool {
    let signals = SIGNALS.split_inclusive(' ').take(3).collect::<String>();
    let named = ["ddp_debug", "ddp_start_debugging", "-- ddp attach"].iter().any(|name| command.contains(name));
    let gdb = gdb_commands();
    named || command == INDEX_CACHE || command.starts_with(&signals) || gdb.iter().any(|(text, _)| *text == command)
}

fn gdb_commands() -> [(&'static str, &'static str); 5] {
    [
        ("-enable-pretty-printing", "show values as their printers do"),
        (RUST_PRINTERS, "Rust's String, Vec, Option, enums"),
        ("set breakpoint pending on", "breakpoints in what is not loaded yet"),
        ("break rust_panic", "stop at panics"),
        (SIGNALS, "signals are the program's own affair"),
    ]
}

/// One target in one profile, for one debugger.
pub(super) struct Variant<'a> {
    pub(super) debugger: Debugger,
    pub(super) target: &'a Trainable,
    pub(super) workers: &'a Workers,
    pub(super) release: bool,
    /// The folder for what is built.
    pub(super) folder: &'a str,
    /// The platform that it is built for, if cargo needs `--target`.
    pub(super) platform: Option<&'a str>,
}

impl Variant<'_> {
    fn entry(&self, role: Role) -> Entry {
        Entry::new(role, &self.target.label, self.release)
    }

    fn name(&self, role: Role) -> String {
        self.entry(role).name(self.workers.count)
    }

    /// The configurations of launch.json, in the order in which VS Code offers them.
    pub(super) fn configurations(&self) -> Vec<(Entry, Json)> {
        let mut roles = vec![Role::Alone, Role::Launcher];
        if self.debugger.opens_children() {
            roles.splice(0..0, [Role::Run, Role::Step]);
        }
        roles.extend((0..self.workers.count).map(Role::Rank));
        roles.into_iter().map(|role| (self.entry(role.clone()), self.configuration(role))).collect()
    }

    fn configuration(&self, role: Role) -> Json {
        let profile = if self.release { RELEASE_PROFILE } else { "debug" };
        let program = self.target.program(self.folder, profile);
        let name = self.name(role.clone());
        let task = Some(self.name(Role::Build));
        match role {
            Role::Run | Role::Step | Role::Launcher => {
                let task = task.filter(|_| role != Role::Launcher);
                launcher(self.debugger, &role, name, self.run_args(&role), self.release_env(), task)
            }
            Role::Rank(rank) => {
                let env = vec![
                    ("DDP_JOIN".into(), format!(".ddp/debug/{}.sock", self.target.name).into()),
                    ("DDP_JOIN_RANK".into(), rank.to_string().into()),
                ];
                worker(self.debugger, &role, name, program, env, None)
            }
            _ => worker(self.debugger, &role, name, program, vec![], task),
        }
    }

    /// The variables that define the release variants' profile.
    fn release_env(&self) -> Vec<(String, Json)> {
        let set = RELEASE_ENV.map(|(name, value)| (name.to_owned(), value.into()));
        set.into_iter().filter(|_| self.release).collect()
    }

    fn run_args(&self, role: &Role) -> Vec<String> {
        let mut args = vec!["ddp".to_owned(), "run".into()];
        args.extend(self.target.selection());
        args.extend(self.profile_args());
        match role {
            // The earlier run's workers.
            Role::Step => args.extend(["--at-step".into(), format!("${{input:{STEP_INPUT}}}")]),
            _ => args.extend(self.workers.args()),
        }
        args
    }

    fn profile_args(&self) -> Vec<String> {
        let profile = self.release.then_some(["--profile", RELEASE_PROFILE]);
        let platform = self.platform.map(|platform| ["--target", platform]);
        profile.into_iter().chain(platform).flatten().map(str::to_owned).collect()
    }

    pub(super) fn compound(&self) -> (Entry, Json) {
        let ranks = (0..self.workers.count).map(|rank| self.name(Role::Rank(rank)));
        let members = std::iter::once(self.name(Role::Launcher)).chain(ranks);
        let compound = Json::object([
            ("name", self.name(Role::Compound).into()),
            ("configurations", Json::texts(members)),
            // On the compound: on its members, VS Code would ask what to do about the task that runs already.
            ("preLaunchTask", self.name(Role::Build).into()),
            ("stopAll", true.into()),
        ]);
        (self.entry(Role::Compound), compound)
    }

    /// The task that builds, and makes what a configuration needs in `.ddp/`.
    pub(super) fn task(&self) -> (Entry, Json) {
        let mut args = vec!["ddp".to_owned(), "build".into()];
        args.extend(self.target.selection());
        args.extend(self.profile_args());
        let mut task = vec![
            ("label", self.name(Role::Build).into()),
            ("type", "shell".into()),
            ("command", "cargo".into()),
            ("args", Json::texts(args)),
        ];
        if self.release {
            task.push(("options", Json::object([("env", Json::Object(self.release_env()))])));
        }
        task.extend([
            ("problemMatcher", Json::texts(["$rustc"])),
            ("group", "build".into()),
            ("presentation", Json::object([("reveal", Json::from("silent")), ("revealProblems", "onProblem".into())])),
            once(),
        ]);
        (self.entry(Role::Build), Json::object(task))
    }
}

/// A task that is running already is not started again, and nothing is asked.
fn once() -> (&'static str, Json) {
    ("runOptions", Json::object([("instancePolicy", Json::from("silent"))]))
}

/// The configuration that opens a session for each rank of a job that runs already. It is an `attach`, although it starts
/// `cargo ddp attach`: VS Code disconnects from the sessions that an attach has opened, and kills what those of a launch debug.
pub(super) fn attach(debugger: Debugger) -> (Entry, Json) {
    let entry = Entry::new(Role::Attach, "", false);
    // lldb-dap wants a process that is stopped, and resumes it.
    let (key, stop) = match debugger {
        Debugger::LldbDap => ("attachCommands", "--stop-at-entry "),
        Debugger::CodeLldb | Debugger::CppDbg => ("processCreateCommands", ""),
    };
    let start = format!(
        "process launch {stop}--stdin /dev/null --working-dir \"${{workspaceFolder}}\" --environment DDP_DEBUG={debugger} \
         -- ddp attach"
    );
    let configuration = Json::object([
        ("name", entry.name(0).into()),
        ("type", debugger.kind().into()),
        ("request", "attach".into()),
        ("program", LAUNCHER.into()),
        ("initCommands", Json::texts([IMPORT])),
        ("preRunCommands", Json::texts(MARKER)),
        (key, Json::texts([start])),
        ("preLaunchTask", choose().0.name(0).into()),
    ]);
    (entry, configuration)
}

/// The input that asks for the step to go to.
pub(super) fn step_input() -> (Entry, Json) {
    let entry = Entry::new(Role::StepInput, "", false);
    let input = Json::object([
        ("id", entry.name(0).into()),
        ("type", "promptString".into()),
        ("description", "The step to go to, of the newest run".into()),
    ]);
    (entry, input)
}

/// The task that asks which job to attach to, if there are several: in a terminal, which a debugger's process has not.
pub(super) fn choose() -> (Entry, Json) {
    let entry = Entry::new(Role::Choose, "", false);
    let task = Json::object([
        ("label", entry.name(0).into()),
        ("type", "shell".into()),
        ("command", "cargo".into()),
        ("args", Json::texts(["ddp", "attach", "--choose"])),
        ("problemMatcher", Json::List(vec![])),
        ("presentation", Json::object([("reveal", Json::from("always")), ("focus", true.into())])),
        once(),
    ]);
    (entry, task)
}

/// A session of the launcher, alone or as a member of the compound.
pub(super) fn launcher(
    debugger: Debugger,
    role: &Role,
    name: String,
    args: Vec<String>,
    mut env: Vec<(String, Json)>,
    task: Option<String>,
) -> Json {
    let opens_children = *role != Role::Launcher;
    let debug = if opens_children { debugger.name() } else { "compound" };
    env.insert(0, ("DDP_DEBUG".into(), debug.into()));
    let mut session = session(debugger, name, LAUNCHER.into(), args, &env);
    match debugger {
        Debugger::CodeLldb | Debugger::LldbDap if opens_children => {
            session.push(("initCommands", Json::texts([IMPORT])));
            session.push(("preRunCommands", Json::texts(MARKER)));
        }
        Debugger::CodeLldb | Debugger::LldbDap => {}
        Debugger::CppDbg => session.push(("MIMode", "gdb".into())),
    }
    match debugger {
        Debugger::CodeLldb => session.push(("terminal", "integrated".into())),
        Debugger::LldbDap => session.push(("runInTerminal", true.into())),
        Debugger::CppDbg => {}
    }
    finish(session, task, role)
}

/// A session that shows Rust's values: a rank, or one process.
fn worker(
    debugger: Debugger,
    role: &Role,
    name: String,
    program: String,
    env: Vec<(String, Json)>,
    task: Option<String>,
) -> Json {
    let mut session = session(debugger, name, program, vec![], &env);
    match debugger {
        Debugger::CodeLldb | Debugger::LldbDap => session.push(("initCommands", Json::texts([INDEX_CACHE, IMPORT]))),
        Debugger::CppDbg => {
            let command = |(text, description): (&str, &str)| {
                let pairs =
                    [("description", description.into()), ("text", text.into()), ("ignoreFailures", true.into())];
                Json::object(pairs)
            };
            session.push(("MIMode", "gdb".into()));
            session.push(("setupCommands", Json::List(gdb_commands().map(command).into())));
            // That at panics: VS Code has not set it.
            session.push(("unknownBreakpointHandling", "stop".into()));
        }
    }
    // In a terminal, which the worker gives its rank as a title.
    match debugger {
        Debugger::CodeLldb => {
            session.extend([("terminal", "integrated".into()), ("sourceLanguages", Json::texts(["rust"]))])
        }
        Debugger::LldbDap => {
            session.extend([("customFrameFormat", FRAME_NAMES.into()), ("runInTerminal", true.into())])
        }
        Debugger::CppDbg => {}
    }
    finish(session, task, role)
}

fn session(
    debugger: Debugger,
    name: String,
    program: String,
    args: Vec<String>,
    env: &[(String, Json)],
) -> Vec<(&'static str, Json)> {
    let mut session = vec![
        ("name", name.into()),
        ("type", debugger.kind().into()),
        ("request", "launch".into()),
        ("program", program.into()),
        ("args", Json::texts(args)),
        ("cwd", "${workspaceFolder}".into()),
    ];
    if !env.is_empty() {
        session.push((debugger.env_key(), debugger.env(env)));
    }
    session
}

fn finish(mut session: Vec<(&'static str, Json)>, task: Option<String>, role: &Role) -> Json {
    session.extend(task.map(|task| ("preLaunchTask", task.into())));
    if role.is_hidden() {
        session.push(("presentation", Json::object([("hidden", true.into())])));
    }
    Json::object(session)
}
