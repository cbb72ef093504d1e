//! `.vscode/` of a new project: a first version, for CodeLLDB.

use serde_json::{Value, json};

/// Ranks in the multi-rank configurations.
const RANKS: usize = 2;

/// File names and texts.
pub(super) fn files(name: &str) -> Vec<(&'static str, String)> {
    [("launch.json", launch(name)), ("tasks.json", tasks()), ("extensions.json", extensions())]
        .map(|(file, value)| (file, format!("{value:#}\n")))
        .into()
}

/// One process alone, and a compound that starts every rank under the debugger without a launcher.
fn launch(name: &str) -> Value {
    let program = format!("${{workspaceFolder}}/target/debug/{name}");
    let configuration = |title: String, env: Value| {
        json!({
            "name": title,
            "type": "lldb",
            "request": "launch",
            "program": program,
            "args": [],
            "cwd": "${workspaceFolder}",
            "env": env,
            "sourceLanguages": ["rust"],
        })
    };
    let rank_title = |rank: usize| format!("ddp: {name}, rank {rank}");
    let rank = |rank: usize| {
        let env = json!({
            "RANK": rank.to_string(),
            "LOCAL_RANK": rank.to_string(),
            "WORLD_SIZE": RANKS.to_string(),
            "LOCAL_WORLD_SIZE": RANKS.to_string(),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500",
            "OMP_NUM_THREADS": "1",
        });
        configuration(rank_title(rank), env)
    };
    let mut alone = configuration(format!("ddp: {name}, one process"), json!({}));
    alone["preLaunchTask"] = "ddp: build".into();
    let mut configurations = vec![alone];
    configurations.extend((0..RANKS).map(rank));
    json!({
        "version": "0.2.0",
        "configurations": configurations,
        "compounds": [{
            "name": format!("ddp: {name}, {RANKS} ranks"),
            "configurations": (0..RANKS).map(rank_title).collect::<Vec<_>>(),
            "preLaunchTask": "ddp: build",
            "stopAll": true,
        }],
    })
}

fn tasks() -> Value {
    let task = |label: &str, args: &[&str]| {
        json!({
            "label": label,
            "type": "shell",
            "command": "cargo",
            "args": args,
            "problemMatcher": ["$rustc"],
        })
    };
    let mut build = task("ddp: build", &["build"]);
    build["group"] = json!({ "kind": "build", "isDefault": true });
    let ranks = RANKS.to_string();
    json!({ "version": "2.0.0", "tasks": [build, task("ddp: run", &["ddp", "run", "--nproc", &ranks])] })
}

fn extensions() -> Value {
    json!({ "recommendations": ["rust-lang.rust-analyzer", "vadimcn.vscode-lldb"] })
}
