//! An entry of ours that a user has changed: what is ours is updated, what is theirs stays.
//!
//! | in an entry | whose |
//! |---|---|
//! | name, type, request, program, preLaunchTask, command | ours |
//! | args of the launcher, up to `--` | ours are updated, the user's other options stay |
//! | args after `--`, args of a worker | the user's |
//! | env, environment, options.env | our variables are updated, others stay |
//! | lists of debugger commands | ours are updated, others stay |
//! | a compound's members | ours are updated, others stay |
//! | `cwd`, `terminal`, `presentation` and others of [`BY_DEFAULT`] | ours in a new entry, then the user's: changed or removed, it stays so |
//! | anything else that is there already | the user's |
//!
//! When the debugger changes, or the request, what only the former one understands goes.

use super::config::{OUR_ENV, is_our_command};
use super::debugger::{Debugger, env_pairs};
use super::entry::Entry;
use super::json::Json;

const OURS: [&str; 7] = ["name", "label", "type", "request", "program", "preLaunchTask", "command"];
const COMMANDS: [&str; 6] =
    ["initCommands", "preRunCommands", "postRunCommands", "setupCommands", "attachCommands", "processCreateCommands"];
/// Ours in a new entry, or in one that gets another debugger; from then on the user's, who may also remove it. Without these an
/// entry works as well.
const BY_DEFAULT: [&str; 7] =
    ["cwd", "terminal", "runInTerminal", "presentation", "stopAll", "group", "problemMatcher"];
/// Attributes that not all debuggers share.
const OF_ONE_DEBUGGER: [&str; 16] = [
    "env",
    "environment",
    "initCommands",
    "preRunCommands",
    "postRunCommands",
    "setupCommands",
    "attachCommands",
    "processCreateCommands",
    "MIMode",
    "unknownBreakpointHandling",
    "runInTerminal",
    "customFrameFormat",
    "terminal",
    "sourceLanguages",
    "externalConsole",
    "stopAtEntry",
];
/// Attributes that an attach does not accept.
const OF_A_LAUNCH: [&str; 5] = ["args", "cwd", "env", "runInTerminal", "terminal"];
/// Our options, and whether they take a value.
const OUR_OPTIONS: [(&str, bool); 14] = [
    ("--bin", true),
    ("--example", true),
    ("--package", true),
    ("-p", true),
    ("--profile", true),
    ("--target", true),
    ("--target-dir", true),
    ("--manifest-path", true),
    ("--nproc", true),
    ("--gpus", true),
    ("--at-step", true),
    ("--release", false),
    ("-r", false),
    ("--choose", false),
];

/// `wanted`, with what is the user's in `old`. `features`: all that the target's package has.
pub(super) fn merge(old: &Json, wanted: &Json, features: &[String]) -> Json {
    let switched = old.get("type") != wanted.get("type");
    let debugger = wanted.get("type").and_then(Json::text).and_then(Debugger::of_kind);
    let attaches_now = wanted.get("request") == Some(&"attach".into()) && old.get("request") != wanted.get("request");
    let keep = |key: &str| {
        let of_the_former = debugger.is_some() && switched && OF_ONE_DEBUGGER.contains(&key);
        let of_a_launch = attaches_now && OF_A_LAUNCH.contains(&key);
        !of_the_former && !of_a_launch
    };
    let mut pairs: Vec<(String, Json)> = old.pairs().iter().filter(|(key, _)| keep(key)).cloned().collect();
    let mut wanted = wanted.pairs().to_vec();
    // An environment of the user's own, in an entry where we need none, or of another debugger.
    if let Some(debugger) = debugger {
        let key = debugger.env_key();
        let before = ["env", "environment"].iter().find_map(|key| old.get(key)).filter(|_| !attaches_now);
        let ours = wanted.iter().find(|(known, _)| known == key).map(|(_, env)| env_pairs(env)).unwrap_or_default();
        let env = merge_env(&before.map(env_pairs).unwrap_or_default(), &ours);
        let slot = pairs.iter().position(|(known, _)| known == key);
        wanted.retain(|(known, _)| known != key);
        match slot {
            Some(at) if env.is_empty() && !env_pairs(&pairs[at].1).is_empty() => drop(pairs.remove(at)),
            Some(at) => pairs[at].1 = debugger.env(&env),
            None if env.is_empty() => {}
            None => wanted.push((key.to_owned(), debugger.env(&env))),
        }
    }
    // Commands that this entry once had, and needs no more.
    for key in COMMANDS {
        let needed = wanted.iter().any(|(known, _)| known == key);
        if let Some(at) = pairs.iter().position(|(known, _)| known == key).filter(|_| !needed) {
            let rest: Vec<Json> = pairs[at].1.list().iter().filter(|command| !is_ours(command)).cloned().collect();
            if rest.is_empty() && !pairs[at].1.list().is_empty() {
                pairs.remove(at);
            } else if rest.len() < pairs[at].1.list().len() {
                pairs[at].1 = Json::List(rest);
            }
        }
    }
    for (key, value) in wanted {
        let slot = pairs.iter_mut().find(|(known, _)| *known == key).map(|(_, slot)| slot);
        match slot {
            None if !switched && is_by_default(&key, &value) => {}
            None => pairs.push((key, value)),
            Some(slot) => *slot = merged_value(&key, slot, value, features),
        }
    }
    Json::Object(pairs)
}

/// Whether an entry may be without what it was made with. A worker's arguments are the user's; the launcher's are ours.
fn is_by_default(key: &str, wanted: &Json) -> bool {
    BY_DEFAULT.contains(&key) || key == "args" && wanted.list().is_empty()
}

fn merged_value(key: &str, old: &Json, wanted: Json, features: &[String]) -> Json {
    match key {
        "args" => merge_args(old, &wanted, features),
        "configurations" => {
            let theirs = |member: &&Json| member.text().and_then(Entry::parse).is_none();
            Json::List(wanted.list().iter().chain(old.list().iter().filter(theirs)).cloned().collect())
        }
        "options" => {
            let mut options = old.pairs().to_vec();
            let ours = wanted.get("env").map(env_pairs).unwrap_or_default();
            let env = Json::Object(merge_env(&old.get("env").map(env_pairs).unwrap_or_default(), &ours));
            match options.iter_mut().find(|(known, _)| known == "env") {
                Some((_, slot)) => *slot = env,
                None => options.push(("env".into(), env)),
            }
            Json::Object(options)
        }
        key if COMMANDS.contains(&key) => merge_commands(old, &wanted),
        key if OURS.contains(&key) => wanted,
        _ => old.clone(),
    }
}

fn merge_args(old: &Json, wanted: &Json, features: &[String]) -> Json {
    // A worker's arguments: we have none.
    if wanted.list().is_empty() {
        return old.clone();
    }
    let needed = wanted.list().iter().skip_while(|arg| arg.text() != Some("--features")).nth(1).and_then(Json::text);
    let split = old.list().iter().position(|arg| arg.text() == Some("--")).unwrap_or(old.list().len());
    let (options, rest) = old.list().split_at(split);
    let mut theirs = vec![];
    // The first two are `ddp` and the subcommand.
    let mut args = options.iter().skip(2);
    while let Some(arg) = args.next() {
        let text = arg.text().unwrap_or_default();
        // Features that a target needs are ours, all others the user's, as long as they exist: cargo fails for one that does
        // not, such as a needed one that was renamed.
        let (option, joined) = text.split_once('=').map_or((text, None), |(option, value)| (option, Some(value)));
        if ["--features", "-F"].contains(&option) {
            let value = joined.or_else(|| args.next()?.text()).filter(|value| Some(*value) != needed);
            match (value.and_then(|value| existing(value, features)), joined) {
                (Some(left), None) => theirs.extend([arg.clone(), left.into()]),
                (Some(left), Some(_)) => theirs.push(format!("{option}={left}").into()),
                (None, _) => {}
            }
            continue;
        }
        match OUR_OPTIONS.iter().find(|(option, _)| *option == text) {
            Some((_, true)) => drop(args.next()),
            Some((_, false)) => {}
            None if OUR_OPTIONS.iter().any(|(option, _)| text.starts_with(&format!("{option}="))) => {}
            // `-pNAME`
            None if text.starts_with("-p") => {}
            None => theirs.push(arg.clone()),
        }
    }
    Json::List(wanted.list().iter().cloned().chain(theirs).chain(rest.iter().cloned()).collect())
}

/// Those of a list of features that exist, as far as the package alone decides. `None` if no feature is left.
fn existing(list: &str, features: &[String]) -> Option<String> {
    let exists = |name: &&str| *name == "default" || name.contains('/') || features.iter().any(|known| known == name);
    let names = || list.split([',', ' ']).filter(|name| !name.is_empty());
    if names().all(|name| exists(&name)) {
        return Some(list.to_owned());
    }
    let left: Vec<&str> = names().filter(exists).collect();
    (!left.is_empty()).then(|| left.join(","))
}

fn merge_env(old: &[(String, Json)], ours: &[(String, Json)]) -> Vec<(String, Json)> {
    let wanted = |name: &str| ours.iter().find(|(known, _)| known == name);
    let mut env: Vec<(String, Json)> = old
        .iter()
        .filter(|(name, _)| wanted(name).is_some() || !OUR_ENV.contains(&name.as_str()))
        .map(|pair| wanted(&pair.0).unwrap_or(pair).clone())
        .collect();
    env.extend(ours.iter().filter(|(name, _)| !old.iter().any(|(known, _)| known == name)).cloned());
    env
}

/// Our items replace our earlier ones in place; new ones follow these.
fn merge_commands(old: &Json, wanted: &Json) -> Json {
    let old = old.list();
    let Some(last) = old.iter().rposition(is_ours) else {
        return Json::List(wanted.list().iter().chain(old).cloned().collect());
    };
    let mut wanted = wanted.list().iter().cloned();
    let mut merged = vec![];
    for (at, command) in old.iter().enumerate() {
        if is_ours(command) {
            merged.extend(wanted.next());
        } else {
            merged.push(command.clone());
        }
        if at == last {
            merged.extend(wanted.by_ref());
        }
    }
    Json::List(merged)
}

fn is_ours(command: &Json) -> bool {
    command.text().or_else(|| command.get("text")?.text()).is_some_and(is_our_command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::editor::vscode::config::{attach, choose, launcher};
    use crate::editor::vscode::entry::Role;

    /// For a package with the features `cuda` and `mine`.
    fn merge(old: &Json, wanted: &Json) -> Json {
        super::merge(old, wanted, &["cuda", "mine"].map(str::to_owned))
    }

    fn merge_args(old: &Json, wanted: &Json) -> Json {
        super::merge_args(old, wanted, &["cuda", "mine"].map(str::to_owned))
    }

    fn texts(value: &Json) -> Vec<&str> {
        value.list().iter().filter_map(Json::text).collect()
    }

    fn run(debugger: Debugger) -> Json {
        let args = ["ddp", "run", "--bin", "m"].map(str::to_owned).into();
        launcher(debugger, &Role::Run, "ddp: run m on 2 ranks".into(), args, vec![], None)
    }

    fn with(value: &Json, key: &str, new: Json) -> Json {
        let mut pairs: Vec<_> = value.pairs().iter().filter(|(known, _)| known != key).cloned().collect();
        pairs.push((key.into(), new));
        Json::Object(pairs)
    }

    #[test]
    fn merge_keeps_unchanged_entries() {
        for debugger in Debugger::ALL {
            for wanted in [run(debugger), attach(debugger).1, choose().1] {
                assert_eq!(merge(&wanted, &wanted), wanted);
            }
        }
    }

    #[test]
    fn merge_keeps_defaults_that_the_user_changed_or_removed() {
        for debugger in Debugger::ALL {
            let wanted = run(debugger);
            for key in BY_DEFAULT.into_iter().filter(|key| wanted.get(key).is_some()) {
                let removed = Json::Object(wanted.pairs().iter().filter(|(known, _)| known != key).cloned().collect());
                assert_eq!(merge(&removed, &wanted), removed, "{key}");
                let changed = with(&wanted, key, "mine".into());
                assert_eq!(merge(&changed, &wanted), changed, "{key}");
                // Not what the entry needs.
                assert!(!OURS.contains(&key) && !COMMANDS.contains(&key), "{key}");
            }
        }
        // Another debugger has its own.
        let console = with(&run(Debugger::CodeLldb), "terminal", "console".into());
        let merged = merge(&console, &run(Debugger::LldbDap));
        assert_eq!((merged.get("terminal"), merged.get("runInTerminal")), (None, Some(&true.into())));
    }

    #[test]
    fn merge_keeps_the_users_arguments_and_options() {
        let old = Json::texts([
            "ddp", "run", "--bin=x", "--grace", "3", "--nproc", "9", "-p", "y", "--", "--epochs", "--bin",
        ]);
        let wanted = Json::texts(["ddp", "run", "--bin", "m", "--nproc", "2"]);
        let merged = merge_args(&old, &wanted);
        assert_eq!(texts(&merged).join(" "), "ddp run --bin m --nproc 2 --grace 3 -- --epochs --bin");
        assert_eq!(merge_args(&merged, &wanted), merged);
        // The user's features stay, in addition to those that the target requires.
        let needy = Json::texts(["ddp", "run", "--bin", "m", "--features", "cuda"]);
        let old = Json::texts(["ddp", "run", "--bin", "m", "--features", "cuda", "--features", "mine"]);
        assert_eq!(merge_args(&old, &needy), old);
        assert_eq!(
            texts(&merge_args(&merged, &needy)).join(" "),
            "ddp run --bin m --features cuda --grace 3 -- --epochs --bin"
        );
        let worker = Json::texts(["--epochs", "3"]);
        assert_eq!(merge_args(&worker, &Json::List(vec![])), worker);
    }

    #[test]
    fn merge_removes_features_that_the_package_no_longer_has() {
        let merged = |old: &[&str], wanted: &[&str]| {
            let all = |more: &[&str]| Json::texts([&["ddp", "build", "--bin", "m"], more].concat());
            texts(&merge_args(&all(old), &all(wanted)))[4..].join(" ")
        };
        assert_eq!(merged(&["--features", "gpu"], &["--features", "cuda"]), "--features cuda");
        assert_eq!(merged(&["--features", "gpu", "-F", "mine"], &[]), "-F mine");
        assert_eq!(merged(&["--features=gpu,mine", "-v"], &[]), "--features=mine -v");
        assert_eq!(merged(&["--features", "gpu dep/gpu", "-F=gpu"], &[]), "--features dep/gpu");
        // As they are written, if all exist.
        assert_eq!(
            merged(&["--features", "mine default", "--features=cuda"], &[]),
            "--features mine default --features=cuda"
        );
    }

    #[test]
    fn merge_replaces_options_that_decide_what_is_built_and_where() {
        let theirs =
            ["features", "all-features", "no-default-features", "jobs", "locked", "offline", "frozen"].map(Some);
        let command = <crate::cli::Build as clap::Args>::augment_args(clap::Command::new("build"));
        for option in command.get_arguments().filter(|option| !theirs.contains(&option.get_long())) {
            let (long, short) = (option.get_long().map(|name| format!("--{name}")), option.get_short());
            let has_value = option.get_action().takes_values();
            for name in [long, short.map(|letter| format!("-{letter}"))].into_iter().flatten() {
                assert!(OUR_OPTIONS.contains(&(&name, has_value)), "{name}");
            }
        }
        let wanted = Json::texts(["ddp", "build", "--bin", "m"]);
        for more in [&["-r"][..], &["-px"], &["--target-dir", "out"], &["--target-dir=out"]] {
            let old = [&["ddp", "build", "--bin", "m"], more].concat();
            assert_eq!(merge_args(&Json::texts(old), &wanted), wanted, "{more:?}");
        }
    }

    #[test]
    fn merge_keeps_the_users_environment_for_another_debugger() {
        let old =
            with(&run(Debugger::LldbDap), "env", Json::texts(["MINE=1", "DDP_DEBUG=old", "DDP_JOIN=stale", "PASSED"]));
        let merged = merge(&old, &run(Debugger::CodeLldb));
        let expected = [("MINE", "1"), ("DDP_DEBUG", "codelldb"), ("PASSED", "${env:PASSED}")];
        assert_eq!(merged.get("env"), Some(&Json::object(expected.map(|(key, value)| (key, value.into())))));
        assert_eq!(merged.get("runInTerminal"), None);
        assert_eq!(merged.get("terminal"), Some(&"integrated".into()));
    }

    #[test]
    fn merge_keeps_the_users_commands_and_keys() {
        let wanted = run(Debugger::LldbDap);
        let commands = Json::texts(["settings set target.x y", "command script import /old/ddp_debug.py", "mine"]);
        let old = with(&with(&wanted, "initCommands", commands), "stopOnEntry", true.into());
        let merged = merge(&with(&old, "cwd", "${workspaceFolder}/data".into()), &wanted);
        let commands = texts(merged.get("initCommands").unwrap());
        assert_eq!(commands.len(), 3);
        assert!(commands[1].contains(".ddp/debug/ddp_debug.py"));
        assert_eq!([commands[0], commands[2]], ["settings set target.x y", "mine"]);
        assert_eq!(merged.get("stopOnEntry"), Some(&true.into()));
        assert_eq!(merged.get("cwd"), Some(&"${workspaceFolder}/data".into()));
        assert_eq!(merge(&merged, &wanted), merged);
    }

    #[test]
    fn merge_removes_launch_attributes_from_an_entry_that_now_attaches() {
        for debugger in Debugger::ALL.into_iter().filter(|debugger| debugger.opens_children()) {
            let (_, wanted) = attach(debugger);
            let mut old = with(&run(debugger), "name", "ddp: attach to a running job".into());
            old = with(&old, "presentation", Json::object([("hidden", true.into())]));
            let merged = merge(&old, &wanted);
            let mine = with(&wanted, "presentation", Json::object([("hidden", true.into())]));
            assert_eq!(sorted(&merged), sorted(&mine), "{debugger}");
            assert_eq!(merge(&merged, &wanted), merged);
            // To another debugger.
            let other = attach(Debugger::LldbDap).1;
            assert_eq!(sorted(&merge(&wanted, &other)), sorted(&other));
        }
    }

    fn sorted(value: &Json) -> Vec<(String, Json)> {
        let mut pairs = value.pairs().to_vec();
        pairs.sort_by(|one, other| one.0.cmp(&other.0));
        pairs
    }
}
