//! What users see in their files.

use std::fs;
use std::path::Path;

use super::*;

fn target(name: &str, example: bool) -> Trainable {
    let (name, label) = (name.to_owned(), name.to_owned());
    let (features, package_features) = (vec![], vec![]);
    Trainable { name, label, example, on_request: example, package: None, features, package_features, workers: None }
}

pub(super) fn project() -> Project {
    let trainable = vec![target("train", false), target("eval", false), target("show", true)];
    Project { target: "${workspaceFolder}/target".into(), platform: None, trainable }
}

fn only(names: &[&str]) -> Project {
    Project { trainable: names.iter().map(|name| target(name, false)).collect(), ..project() }
}

pub(super) fn request() -> Request {
    Request::new(Workers::nproc(2))
}

fn with(debugger: Debugger) -> Request {
    Request { debugger: Some(debugger), ..request() }
}

pub(super) fn update(root: &Path, project: &Project, request: &Request) -> Result<Plan> {
    let plan = plan(root, project, request)?;
    for file in &plan.files {
        file.write()?;
    }
    Ok(plan)
}

/// launch.json, tasks.json, extensions.json, settings.json of a project that had none.
pub(super) fn generated(project: &Project, request: &Request) -> [String; 4] {
    let dir = tempfile::tempdir().unwrap();
    let files = plan(dir.path(), project, request).unwrap().files;
    files.into_iter().map(|file| file.after.unwrap()).collect::<Vec<_>>().try_into().unwrap()
}

/// launch.json after an update.
fn updated(launch: &str, project: &Project, request: &Request) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(".vscode/launch.json");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, launch).unwrap();
    update(dir.path(), project, request).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let again = update(dir.path(), project, &Request { debugger: None, workers: None, ..request.clone() }).unwrap();
    assert!(again.files.iter().all(|file| !file.is_stale()), "a second time changes something: {text}");
    text
}

fn names(launch: &str) -> Vec<String> {
    let source = Source::parse(Path::new("x"), launch).unwrap();
    let lists = ["configurations", "compounds"].map(|key| source.list(key).unwrap());
    let elements = lists.into_iter().flatten().flat_map(|array| &array.elements).map(Json::from_ast);
    elements.filter_map(|one| Some(one.get("name")?.text()?.to_owned())).collect()
}

fn entry(launch: &str, name: &str) -> Json {
    let source = Source::parse(Path::new("x"), launch).unwrap();
    let lists = ["configurations", "compounds"].map(|key| source.list(key).unwrap());
    let mut elements = lists.into_iter().flatten().flat_map(|array| &array.elements).map(Json::from_ast);
    elements
        .find(|one| one.get("name").and_then(Json::text) == Some(name))
        .unwrap_or_else(|| panic!("no {name}: {launch}"))
}

const THEIRS: &str = r#"// Mine, all mine.
{
	"version": "0.2.0", // the only one there is
	"inputs": [ { "id": "who", "type": "promptString", "description": "{\"configurations\": []}" } ],
	"configurations": [
		// runs my thing
		{ "name": "mine", "type": "lldb", "request": "launch", "program": "a.out", /* } ] */ },
		{
			"name": "mine", // twice
			"type": "python", "request": "launch",
			"args": [ "//", "/*", ], },
	],
	"compounds": [ {"name": "both", "configurations": ["mine", "ddp: train, one process"]} ],
}
"#;

#[test]
fn launch_json_keeps_the_users_bytes() {
    let text = updated(THEIRS, &only(&["train"]), &request());
    // Everything up to the end of each of their lists, with one insertion before it.
    let [inputs, configurations] =
        [" ],\n\t\"configurations\"", "\t\"configurations\": ["].map(|end| THEIRS.find(end).unwrap());
    assert_eq!(text[..inputs], THEIRS[..inputs]);
    let at = THEIRS.find("\n\t],\n\t\"compounds\"").unwrap();
    assert!(text.contains(&THEIRS[configurations..at]), "{text}");
    let rest = &THEIRS[at..THEIRS.find("} ],\n}").unwrap()];
    assert!(text.contains(rest), "{text}");
    assert!(text.contains("\n\t\t{\n\t\t\t\"name\": \"ddp: run train on 2 ranks\",\n"), "{text}");
    let found = names(&text);
    assert_eq!(found[..2], ["mine", "mine"]);
    assert_eq!(found.len(), 2 + 7 + 2);
}

#[test]
fn entries_of_a_removed_binary_are_removed_and_others_stay() {
    let text = updated(THEIRS, &only(&["train", "eval"]), &request());
    let text = updated(&text, &only(&["eval"]), &request());
    let found = names(&text);
    assert!(found.iter().all(|name| !name.contains("train")), "{found:?}");
    assert_eq!(found.iter().filter(|name| name.starts_with("ddp: ")).count(), 8, "{found:?}");
    // What is gone can't be a member of a compound, not even of the user's.
    assert_eq!(entry(&text, "both").get("configurations"), Some(&Json::texts(["mine"])));
    // All gone: as it was, but for the member, and the lines that the lists' ends got.
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    fs::write(dir.path().join(".vscode/launch.json"), &text).unwrap();
    let launch = plan(dir.path(), &only(&[]), &request()).unwrap().files[0].after.clone().unwrap();
    let mut expected = THEIRS.replace(", \"ddp: train, one process\"", "").replace("} ],\n}", "}\n\t ],\n}");
    expected = expected.replace("} ],\n\t\"configurations\"", "}\n\t ],\n\t\"configurations\"");
    assert_eq!(launch, expected);
}

#[test]
fn request_without_options_keeps_the_earlier_choices() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let chosen = Request {
        workers: Some(Workers { count: 4, gpus: Some("0-3".into()) }),
        release: true,
        only: vec!["train".into(), "show".into()],
        ..with(Debugger::LldbDap)
    };
    update(root, &project(), &chosen).unwrap();
    let before = fs::read_to_string(root.join(".vscode/launch.json")).unwrap();
    assert_eq!(
        entry(&before, "ddp: run show on 4 ranks (release)").get("args"),
        Some(&Json::texts(["ddp", "run", "--example", "show", "--profile", "release-with-debug", "--gpus", "0-3"]))
    );
    // Without flags, only what is missing comes: the other binary.
    let plan = update(root, &project(), &request()).unwrap();
    assert_eq!((plan.debugger, plan.targets.len()), (Debugger::LldbDap, 3));
    let after = fs::read_to_string(root.join(".vscode/launch.json")).unwrap();
    for name in names(&before) {
        assert_eq!(entry(&before, &name), entry(&after, &name));
    }
    assert!(names(&after).contains(&"ddp: run eval on 2 ranks".into()));
    // And what was chosen for one binary leaves the others alone.
    let one = Request { only: vec!["eval".into()], workers: Some(Workers::nproc(1)), ..request() };
    update(root, &project(), &one).unwrap();
    let last = fs::read_to_string(root.join(".vscode/launch.json")).unwrap();
    assert!(names(&last).contains(&"ddp: run eval on 1 rank".into()));
    assert!(names(&last).contains(&"ddp: run train on 4 ranks".into()));
}

#[test]
fn entries_keep_the_users_additions_with_fewer_ranks_and_another_debugger() {
    let [launch, ..] =
        generated(&only(&["m"]), &Request { workers: Some(Workers::nproc(3)), ..with(Debugger::CodeLldb) });
    let mine = launch.replace(
        "\"--nproc\", \"3\"],\n      \"cwd\": \"${workspaceFolder}\",\n      \"env\": {\n        \"DDP_DEBUG\": \"codelldb\"",
        "\"--nproc\", \"3\", \"--\", \"--epochs\", \"9\"], // short\n      \"stopOnEntry\": true,\n      \
         \"cwd\": \"${workspaceFolder}\",\n      \"env\": {\n        \"MINE\": \"1\", // here\n        \"DDP_DEBUG\": \"codelldb\"",
    );
    assert_ne!(mine, launch);
    let text = updated(&mine, &only(&["m"]), &Request { workers: Some(Workers::nproc(2)), ..request() });
    let run = entry(&text, "ddp: run m on 2 ranks");
    assert_eq!(
        run.get("args"),
        Some(&Json::texts(["ddp", "run", "--bin", "m", "--nproc", "2", "--", "--epochs", "9"]))
    );
    assert_eq!(run.get("stopOnEntry"), Some(&true.into()));
    assert!(text.contains("// short") && text.contains("\"MINE\": \"1\", // here"), "{text}");
    assert!(!names(&text).iter().any(|name| name.contains("rank 2")));

    let text = updated(&text, &only(&["m"]), &with(Debugger::LldbDap));
    let run = entry(&text, "ddp: run m on 2 ranks");
    assert_eq!(run.get("env"), Some(&Json::texts(["MINE=1", "DDP_DEBUG=lldb-dap"])));
    assert_eq!((run.get("terminal"), run.get("runInTerminal")), (None, Some(&true.into())));
    assert_eq!(run.get("stopOnEntry"), Some(&true.into()));

    // gdb opens no sessions for children.
    let text = updated(&text, &only(&["m"]), &with(Debugger::CppDbg));
    let found = names(&text);
    assert!(found.contains(&"ddp: m, launcher + 2 workers".into()));
    assert!(!found.iter().any(|name| name.contains("run m") || name.contains("attach")), "{found:?}");
}

#[test]
fn entries_for_gdb_keep_the_users_commands() {
    let request = with(Debugger::CppDbg);
    let [launch, ..] = generated(&only(&["m"]), &request);
    let theirs = r#"{ "text": "set print elements 0" }"#;
    let before = launch.replace("nostop noprint pass", "nostop print pass").replacen(
        "\"setupCommands\": [",
        &format!("\"setupCommands\": [\n        {theirs},"),
        1,
    );
    assert!(before.contains(theirs) && before.contains("nostop print pass"), "{launch}");
    let text = updated(&before, &only(&["m"]), &request);
    assert!(!text.contains("nostop print pass"), "{text}");
    assert_eq!(text.matches("nostop noprint pass").count(), launch.matches("nostop noprint pass").count());
    assert!(text.contains(theirs), "{text}");
}

#[test]
fn compounds_of_the_user_follow_renamed_entries() {
    let [launch, ..] = generated(&only(&["m"]), &request());
    let theirs = r#"{ "name": "mine", "configurations": [ "x", "ddp: run m on 2 ranks" ] },"#;
    let launch = launch.replace("\"compounds\": [", &format!("\"compounds\": [\n    {theirs}"));
    let text = updated(&launch, &only(&["m"]), &Request { workers: Some(Workers::nproc(4)), ..request() });
    assert!(text.contains(&theirs.replace("2 ranks", "4 ranks")), "{text}");
}

#[test]
fn rank_that_the_user_unhides_stays_visible() {
    let [launch, ..] = generated(&only(&["m"]), &request());
    let rank = "ddp: m, rank 1 of 2";
    let hidden = Json::object([("hidden", true.into())]);
    assert_eq!(entry(&launch, rank).get("presentation"), Some(&hidden));
    assert_eq!(entry(&launch, "ddp: m, one process").get("presentation"), None);
    let at = launch.find(rank).unwrap();
    let (before, after) = launch.split_at(at);
    let key = ",\n      \"presentation\": {\n        \"hidden\": true\n      }";
    assert!(after.contains(key), "{after}");
    let shown = format!("{before}{}", after.replacen(key, "", 1));
    let text = updated(&shown, &only(&["m"]), &request());
    assert_eq!(text, shown);
    // A new rank is hidden, and the one that was shown is not.
    let more = updated(&shown, &only(&["m"]), &Request { workers: Some(Workers::nproc(3)), ..request() });
    assert_eq!(entry(&more, "ddp: m, rank 1 of 3").get("presentation"), None);
    assert_eq!(entry(&more, "ddp: m, rank 2 of 3").get("presentation"), Some(&hidden));
}

#[test]
fn entries_with_similar_names_stay() {
    let theirs =
        r#"{"configurations": [{"name": "ddp: the launcher"}, {"name": "ddp: build train"}, 7, {"name": null}]}"#;
    let text = updated(theirs, &only(&["train"]), &request());
    assert!(text.contains(theirs.strip_suffix("]}").unwrap()), "{text}");
}

#[test]
fn entries_of_earlier_versions_are_removed() {
    let old = r#"{"configurations": [{"name": "ddp: m, rank 0"}, {"name": "ddp: m, rank 1"}],
        "compounds": [{"name": "ddp: m, 2 ranks", "configurations": ["ddp: m, rank 0"]}]}"#;
    let text = updated(old, &only(&["m"]), &request());
    assert!(!names(&text).iter().any(|name| name.ends_with("rank 0") || name.ends_with(", 2 ranks")), "{text}");
}

#[test]
fn crlf_line_ends_stay() {
    let theirs = format!("\u{feff}{}", THEIRS.replace('\n', "\r\n"));
    let text = updated(&theirs, &only(&["train"]), &request());
    assert!(text.starts_with('\u{feff}'));
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
    let empty = updated("\u{feff}", &only(&["train"]), &request());
    assert!(empty.starts_with("\u{feff}{\n"));
    let comment = updated("// mine\r\n", &only(&["train"]), &request());
    assert!(comment.starts_with("// mine\r\n{\r\n"), "{comment:?}");
}

#[test]
fn invalid_jsonc_is_not_written_and_its_line_is_named() {
    let cases: &[(&[u8], &str)] = &[
        (b"{\n  \"configurations\": [\n    {\"name\" \"x\"}\n  ]\n}", "launch.json:3:13: "),
        (b"{\n  \"a\": 1,,\n}", "launch.json:2:10: "),
        ("\u{feff}\r\n{\"ä\": '}".as_bytes(), "launch.json:2:7: "),
        (b"[]", "launch.json:1:1: expected an object"),
        (b"{\"configurations\": {}}", "launch.json:1:20: `configurations` is not a list"),
        (b"{\"a\": \"\xff\"}", "launch.json:1:8: not UTF-8"),
        (b"{\"a\": 1", "launch.json:1:1: unterminated object"),
        (b"{\"a\": 0x10}", "launch.json:1:7: "),
        (b"{a: 1}", "launch.json:1:2: "),
        (b"{} {}", "launch.json:1:4: "),
    ];
    for (bytes, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".vscode/launch.json");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        let err = update(dir.path(), &only(&["m"]), &request()).unwrap_err();
        let text = err.to_string();
        assert!(matches!(err, Error::BadJson { .. }) && text.contains(expected), "{text}, not {expected}");
        assert_eq!(fs::read(&path).unwrap(), *bytes);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "something was written");
    }
}

#[test]
fn input_for_the_step_is_added_next_to_the_users_and_updated_by_its_id() {
    let text = updated(THEIRS, &only(&["train"]), &request());
    let theirs = r#"{ "id": "who", "type": "promptString", "description": "{\"configurations\": []}" }"#;
    assert!(text.contains(theirs) && text.matches("\"ddpStep\"").count() == 1, "{text}");
    let go = entry(&text, "ddp: go to a step of train");
    let args = ["ddp", "run", "--bin", "train", "--at-step", "${input:ddpStep}"];
    assert_eq!(go.get("args"), Some(&Json::texts(args)));
    // The user's words stay, and so do options before `--`.
    let changed = text
        .replace("The step to go to, of the newest run", "Step")
        .replace("\"${input:ddpStep}\"]", "\"${input:ddpStep}\", \"--run\", \"7\"]");
    assert_eq!(updated(&changed, &only(&["train"]), &request()), changed);
    let stale = text.replacen(
        "\"id\": \"ddpStep\",\n\t\t\t\"type\": \"promptString\"",
        "\"id\": \"ddpStep\",\n\t\t\t\"type\": \"pickString\"",
        1,
    );
    assert_ne!(stale, text);
    assert_eq!(updated(&stale, &only(&["train"]), &request()), text);
    // gdb opens no sessions, and so goes to no step.
    let text = updated(&text, &only(&["train"]), &with(Debugger::CppDbg));
    assert!(!text.contains("ddpStep") && !text.contains("go to a step") && text.contains(theirs), "{text}");
}

#[test]
fn settings_and_recommendations_of_the_user_win() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(".vscode").join(name);
    fs::create_dir(dir.path().join(".vscode")).unwrap();
    fs::write(path("settings.json"), "{ \"rust-analyzer.files.excludeDirs\": [] }").unwrap();
    let theirs = "{\n  \"recommendations\": [\"Rust-lang.rust-analyzer\"],\n  \"unwantedRecommendations\": [\"vadimcn.vscode-lldb\"]\n}\n";
    fs::write(path("extensions.json"), theirs).unwrap();
    update(dir.path(), &only(&["m"]), &request()).unwrap();
    assert_eq!(fs::read_to_string(path("settings.json")).unwrap(), "{ \"rust-analyzer.files.excludeDirs\": [] }");
    assert_eq!(fs::read_to_string(path("extensions.json")).unwrap(), theirs);
    // Another debugger's extension is added, on the line on which the others are.
    update(dir.path(), &only(&["m"]), &with(Debugger::LldbDap)).unwrap();
    let text = fs::read_to_string(path("extensions.json")).unwrap();
    assert!(text.contains("[\"Rust-lang.rust-analyzer\", \"llvm-vs-code-extensions.lldb-dap\"]"), "{text}");
    update(dir.path(), &only(&["m"]), &with(Debugger::CppDbg)).unwrap();
    let text = fs::read_to_string(path("extensions.json")).unwrap();
    assert!(text.contains("[\"Rust-lang.rust-analyzer\", \"ms-vscode.cpptools\"]"), "{text}");
}

#[test]
fn bin_that_does_not_exist_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let err = plan(dir.path(), &project(), &Request { only: vec!["trian".into()], ..request() }).unwrap_err();
    assert_eq!(err.to_string(), "nothing named `trian` depends on ddp-runtime (available: train, eval, show)");
    assert!(matches!(plan(dir.path(), &only(&[]), &request()).unwrap_err(), Error::NothingToDebug));
}

#[test]
fn program_for_a_platform_is_compared_with_the_one_for_the_same_platform() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let target = "${workspaceFolder}/target/a-b-c".to_owned();
    update(root, &Project { target, ..project() }, &Request { only: vec!["train".into(), "show".into()], ..request() })
        .unwrap();
    let another = |built: &str, has_platform| starts_another(root, &root.join(built), None, has_platform);
    let started = Some(root.join("target/a-b-c/debug/train"));
    assert_eq!(another("out/a-b-c/debug/train", true), started);
    assert_eq!(another("target/x-y-z/debug/train", true), None);
    assert_eq!(another("target/debug/train", false), started);
    assert_eq!(another("target/a-b-c/debug/train", true), None);
    let example = Some(root.join("target/a-b-c/debug/examples/show"));
    assert_eq!(another("out/a-b-c/debug/examples/show", true), example);
    assert_eq!(another("out/x-y-z/debug/examples/show", true), None);
}
