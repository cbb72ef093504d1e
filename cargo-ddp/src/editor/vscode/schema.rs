//! What is generated, against what VS Code and the debuggers' extensions say they take.
//!
//! Names and types by hand: those that hold from LLVM 19 to what was LLVM's main branch in 2026 of
//! `contributes.debuggers[].configurationAttributes.launch` in lldb-dap's package.json (extension 0.2.8 and 0.4.1), and of an
//! attach, what its adapter takes; of `LaunchRequestArguments` and `AttachRequestArguments` in the schema that CodeLLDB 1.12.2
//! generates, which allows no others; of `CppdbgLaunchOptions` in
//! vscode-cpptools' OptionsSchema.json (main branch, 2026); and of VS Code's documentation of launch.json and tasks.json.

use std::collections::BTreeSet;

use serde_json::Value;

use super::tests::{generated, project};
use super::{Debugger, Request, Workers};

#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Flag,
    Texts,
    /// An object of strings.
    Map,
    /// `[{ "name": …, "value": … }]`
    Pairs,
    /// `[{ "text": …, "description": …, "ignoreFailures": … }]`
    Setup,
    OneOf(&'static [&'static str]),
    /// `{ "hidden": …, "group": …, "order": … }`
    Presentation,
}

/// Attributes that VS Code itself knows, of every configuration.
const COMMON: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("type", Kind::Text),
    ("request", Kind::OneOf(&["launch", "attach"])),
    ("preLaunchTask", Kind::Text),
    ("presentation", Kind::Presentation),
];

const LLDB_DAP: &[(&str, Kind)] = &[
    ("program", Kind::Text),
    ("attachCommands", Kind::Texts),
    ("args", Kind::Texts),
    ("cwd", Kind::Text),
    // The schema has an object too, which LLVM 19's adapter drops; LLVM 22's takes both.
    ("env", Kind::Texts),
    ("stopOnEntry", Kind::Flag),
    ("initCommands", Kind::Texts),
    ("preRunCommands", Kind::Texts),
    ("postRunCommands", Kind::Texts),
    ("customFrameFormat", Kind::Text),
    // Its successor `console` is unknown to LLVM 19's adapter; LLVM 22's takes both.
    ("runInTerminal", Kind::Flag),
];

const CODELLDB: &[(&str, Kind)] = &[
    ("program", Kind::Text),
    ("processCreateCommands", Kind::Texts),
    ("args", Kind::Texts),
    ("cwd", Kind::Text),
    ("env", Kind::Map),
    ("stopOnEntry", Kind::Flag),
    ("initCommands", Kind::Texts),
    ("preRunCommands", Kind::Texts),
    ("postRunCommands", Kind::Texts),
    // Or a terminal's device.
    ("terminal", Kind::OneOf(&["integrated", "external", "console"])),
    ("sourceLanguages", Kind::Texts),
];

const CPPDBG: &[(&str, Kind)] = &[
    ("program", Kind::Text),
    ("args", Kind::Texts),
    ("cwd", Kind::Text),
    ("environment", Kind::Pairs),
    ("MIMode", Kind::OneOf(&["gdb", "lldb"])),
    ("setupCommands", Kind::Setup),
    ("unknownBreakpointHandling", Kind::OneOf(&["throw", "stop"])),
    ("stopAtEntry", Kind::Flag),
];

const COMPOUND: &[(&str, Kind)] = &[
    ("name", Kind::Text),
    ("configurations", Kind::Texts),
    ("preLaunchTask", Kind::Text),
    ("stopAll", Kind::Flag),
    ("presentation", Kind::Presentation),
];

const INPUT: &[(&str, Kind)] = &[
    ("id", Kind::Text),
    ("type", Kind::OneOf(&["promptString"])),
    ("description", Kind::Text),
    ("default", Kind::Text),
];

fn text(value: &Value) -> bool {
    value.is_string()
}

fn every(value: &Value, is: impl Fn(&Value) -> bool) -> bool {
    value.as_array().is_some_and(|values| values.iter().all(is))
}

type Is = fn(&Value) -> bool;

fn only(value: &Value, keys: &[(&str, Is)]) -> bool {
    let known = |(key, value): (&String, &Value)| keys.iter().any(|(name, is)| name == key && is(value));
    value.as_object().is_some_and(|object| object.iter().all(known))
}

fn fits(value: &Value, kind: Kind) -> bool {
    match kind {
        Kind::Text => text(value),
        Kind::Flag => value.is_boolean(),
        Kind::Texts => every(value, text),
        Kind::Map => value.as_object().is_some_and(|object| object.values().all(text)),
        Kind::Pairs => every(value, |pair| only(pair, &[("name", text), ("value", text)])),
        Kind::Setup => every(value, |command| {
            only(command, &[("text", text), ("description", text), ("ignoreFailures", Value::is_boolean)])
        }),
        Kind::OneOf(words) => value.as_str().is_some_and(|word| words.contains(&word)),
        Kind::Presentation => {
            only(value, &[("hidden", Value::is_boolean), ("group", text), ("order", Value::is_number)])
        }
    }
}

fn check(value: &Value, attributes: &[&[(&str, Kind)]]) -> Result<(), String> {
    for (key, value) in value.as_object().ok_or("no object")? {
        let known = attributes.iter().copied().flatten().find(|(name, _)| name == key);
        let (_, kind) = known.ok_or_else(|| format!("{key:?} is unknown"))?;
        if !fits(value, *kind) {
            return Err(format!("{key:?} is no {kind:?}: {value}"));
        }
    }
    Ok(())
}

fn attributes_of(debugger: Debugger) -> &'static [(&'static str, Kind)] {
    match debugger {
        Debugger::CodeLldb => CODELLDB,
        Debugger::LldbDap => LLDB_DAP,
        Debugger::CppDbg => CPPDBG,
    }
}

fn requests() -> impl Iterator<Item = Request> {
    Debugger::ALL.into_iter().flat_map(|debugger| {
        [false, true].map(|release| Request {
            debugger: Some(debugger),
            release,
            only: vec!["train".into(), "show".into()],
            ..Request::new(Workers { count: 3, gpus: release.then(|| "0-2".into()) })
        })
    })
}

#[test]
fn launch_json_has_only_attributes_that_the_debugger_accepts() {
    for request in requests() {
        let [launch, ..] = generated(&project(), &request);
        let launch: Value = serde_json::from_str(&launch).unwrap();
        assert_eq!(launch["version"], "0.2.0");
        let configurations = launch["configurations"].as_array().unwrap();
        for configuration in configurations {
            let attributes = attributes_of(request.debugger.unwrap());
            check(configuration, &[COMMON, attributes])
                .unwrap_or_else(|problem| panic!("{problem}: {configuration:#}"));
            assert_eq!(configuration["type"], request.debugger.unwrap().kind());
            for required in ["name", "request", "program"] {
                assert!(configuration[required].is_string(), "{required}: {configuration:#}");
            }
            // Of an attach, CodeLLDB refuses these, and lldb-dap doesn't know them.
            let of_a_launch = ["args", "cwd", "env", "terminal", "runInTerminal"];
            let attaches = configuration["request"] == "attach";
            assert!(!attaches || of_a_launch.iter().all(|key| configuration.get(key).is_none()), "{configuration:#}");
            assert!(attaches || configuration["cwd"].is_string(), "{configuration:#}");
        }
        let names: Vec<&str> = configurations.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert!(names.iter().all(|name| names.iter().filter(|other| other == &name).count() == 1), "{names:?}");
        let input = |name: &Value| Some(name.as_str()?.split_once("${input:")?.1.split_once('}')?.0.to_owned());
        let args = configurations.iter().filter_map(|one| one["args"].as_array()).flatten();
        let used: BTreeSet<String> = args.filter_map(input).collect();
        let inputs = launch["inputs"].as_array().into_iter().flatten();
        let ids: BTreeSet<String> = inputs.clone().map(|one| one["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(used, ids);
        assert_eq!(ids.is_empty(), request.debugger == Some(Debugger::CppDbg) && launch.get("inputs").is_none());
        inputs.for_each(|input| check(input, &[INPUT]).unwrap_or_else(|problem| panic!("{problem}: {input:#}")));
        for compound in launch["compounds"].as_array().unwrap() {
            check(compound, &[COMPOUND]).unwrap_or_else(|problem| panic!("{problem}: {compound:#}"));
            let members = compound["configurations"].as_array().unwrap();
            assert_eq!(members.len(), 4);
            for member in members {
                let member = configurations.iter().find(|one| one["name"] == *member).unwrap();
                // On members, the task would bring up a question.
                assert!(member.get("preLaunchTask").is_none(), "{member:#}");
            }
        }
    }
}

#[test]
fn tasks_json_has_only_tasks_that_a_configuration_names() {
    for request in requests() {
        let [launch, tasks, ..] = generated(&project(), &request);
        let launch: Value = serde_json::from_str(&launch).unwrap();
        let tasks: Value = serde_json::from_str(&tasks).unwrap();
        assert_eq!(tasks["version"], "2.0.0");
        let labels: Vec<&str> =
            tasks["tasks"].as_array().unwrap().iter().map(|task| task["label"].as_str().unwrap()).collect();
        for task in tasks["tasks"].as_array().unwrap() {
            let attributes = &[
                ("label", Kind::Text),
                ("type", Kind::OneOf(&["shell", "process"])),
                ("command", Kind::Text),
                ("args", Kind::Texts),
                ("problemMatcher", Kind::Texts),
                ("group", Kind::OneOf(&["build", "test", "none"])),
            ];
            let mut plain = task.clone();
            let object = plain.as_object_mut().unwrap();
            let options = object.remove("options").unwrap_or_default();
            assert!(options.is_null() || fits(&options["env"], Kind::Map), "{task:#}");
            let presentation: &[(&str, Kind)] = &[
                ("reveal", Kind::OneOf(&["always", "silent", "never"])),
                ("revealProblems", Kind::OneOf(&["always", "onProblem", "never"])),
                ("focus", Kind::Flag),
            ];
            check(&object.remove("presentation").unwrap(), &[presentation]).unwrap();
            let run = object.remove("runOptions").unwrap();
            let policies = &["terminateNewest", "terminateOldest", "prompt", "warn", "silent"];
            assert!(fits(&run["instancePolicy"], Kind::OneOf(policies)));
            check(&plain, &[attributes]).unwrap_or_else(|problem| panic!("{problem}: {task:#}"));
        }
        let all = launch["configurations"].as_array().unwrap().iter().chain(launch["compounds"].as_array().unwrap());
        let needed: Vec<&str> = all.filter_map(|one| one["preLaunchTask"].as_str()).collect();
        assert!(needed.iter().all(|task| labels.contains(task)), "{needed:?} {labels:?}");
        assert!(labels.iter().all(|label| needed.contains(label)), "{needed:?} {labels:?}");
    }
}

#[test]
fn generated_files_have_no_absolute_paths() {
    for request in requests() {
        for text in generated(&project(), &request).map(|text| text.replace("/dev/null", "")) {
            assert!(!text.contains("\"/") && !text.contains("=/") && !text.contains(" /"), "{text}");
        }
    }
}
