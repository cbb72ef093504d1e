//! Debugging through the real lldb-dap and gdb, as an editor does: `tests/debug/`. And through CodeLLDB's adapter, if CODELLDB
//! names one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ddp_tests::{Ddp, cargo_ddp, kept, linear_project, processes, repo};
use tempfile::tempdir;

/// libtorch's symbols take some seconds and some 500 MB in each debugger: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

type Alone = MutexGuard<'static, ()>;

fn alone() -> Alone {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const LLDB_DAP: &[&str] = &["lldb-dap-19", "lldb-dap"];

/// Whether a program is here; in CI it must be.
fn is_here(names: &[&str]) -> bool {
    if names.is_empty() || names.iter().any(|name| which::which(name).is_ok()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "CI runs this: install {}", names[0]);
    ddp_tests::skipped(&format!("needs {}", names[0]));
    false
}

/// A scaffolded project whose loop has a line to stop at (BREAK) and a `String`, and that panics and breaks on request.
fn project() -> &'static Path {
    static PROJECT: OnceLock<PathBuf> = OnceLock::new();
    PROJECT.get_or_init(|| {
        linear_project(); // compiles the dependencies for all
        let project = kept().join("debugged");
        let _ = fs::remove_dir_all(&project);
        Ddp::new(["new", project.to_str().unwrap()]).run().succeeds();
        fs::copy(repo().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
        // What is built outlives the project, and is where launch configurations look for it.
        fs::create_dir_all(kept().join("debugged-target")).unwrap();
        let _ = fs::remove_dir_all(project.join("target"));
        std::os::unix::fs::symlink("../debugged-target", project.join("target")).unwrap();
        let main = project.join("src/main.rs");
        let text = fs::read_to_string(&main).unwrap();
        let loop_start = "    while let Some(epoch) = run.next_epoch(args.total_epochs) {\n";
        let additions = r#"    let title = format!("rank {} of {}", context.rank(), context.world_size());
    let indices: Vec<i64> = (0..SAMPLES / context.world_size() as i64).collect();
    let numbers = Tensor::from_slice(&indices[..32]);
    let config: Option<PathBuf> = None; // a niche in PathBuf
    if std::env::var_os("DDP_TEST_PANIC").is_some() && context.rank() == 1 {
        panic!("told to");
    }
    if std::env::var_os("DDP_TEST_BREAK_HERE").is_some() {
        ddp_runtime::debug::break_here(1);
    }
"#;
        let changed = text
            .replacen(loop_start, &format!("{additions}{loop_start}"), 1)
            .replacen("run.step_done(&train)?;", "run.step_done(&train)?; // BREAK", 1)
            .replacen("    Ok(())\n}\n", "    drop(title);\n    Ok(())\n}\n", 1);
        assert_eq!(changed.matches("// BREAK").count(), 1, "the template's loop has changed");
        fs::write(&main, changed).unwrap();
        Ddp::new(["build"]).dir(&project).env_remove("CARGO_TARGET_DIR").run().succeeds();
        project
    })
}

fn play(scenario: &str) {
    play_with(&alone(), scenario, project(), |_| {});
}

/// Runs a scenario with each installed debug adapter. CodeLLDB's comes only with its extension for VS Code, as
/// `~/.vscode/extensions/vadimcn.vscode-lldb-*/adapter/codelldb`.
fn play_with(alone: &Alone, scenario: &str, project: &Path, with: impl Fn(&mut Command)) {
    play_in(alone, scenario, project, "tests/debug/scenarios.py", LLDB_DAP, &with);
    if std::env::var_os("CODELLDB").is_some() {
        play_in(alone, scenario, project, "tests/debug/scenarios.py", &[], |python| {
            with(python);
            python.env("DDP_TEST_ADAPTER", "codelldb");
        });
    }
}

/// Runs a scenario, and checks that no process is left soon after.
fn play_in(
    _alone: &Alone,
    scenario: &str,
    project: &Path,
    script: &str,
    needed: &[&str],
    with: impl FnOnce(&mut Command),
) {
    if !is_here(needed) {
        return;
    }
    let marker = format!("debug-{scenario}-{}", std::process::id());
    let mut python = Command::new("python3");
    python.arg(repo().join(script)).arg(scenario).arg(project).arg("debugged").env("DDP_TEST_MARKER", &marker);
    python.env("DDP_TEST_CARGO_DDP", cargo_ddp());
    for name in ["LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CARGO_MANIFEST_DIR", "CARGO_TARGET_DIR"]
    {
        python.env_remove(name);
    }
    with(&mut python);
    let output = python.current_dir(project).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{scenario}: {}\n{stdout}\n{stderr}", output.status);
    let end = Instant::now() + Duration::from_secs(30);
    while !processes(&marker).is_empty() {
        assert!(Instant::now() < end, "{scenario} leaves processes: {:?}", processes(&marker));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn f5_opens_a_session_for_each_of_two_ranks() {
    play("f5_2");
}

#[test]
fn f5_opens_a_session_for_each_of_four_ranks() {
    play("f5_4");
}

#[test]
fn two_ranks_stop_and_continue_as_one() {
    play("group_2");
}

#[test]
fn four_ranks_stop_and_continue_as_one() {
    play("group_4");
}

#[test]
fn two_ranks_agree_after_each_of_200_random_rounds() {
    play("rounds_2");
}

#[test]
fn four_ranks_agree_after_each_of_200_random_rounds() {
    play("rounds_4");
}

#[test]
fn console_commands_hold_and_release_ranks() {
    play("console");
}

#[test]
fn ranks_are_independent_on_request() {
    play("independent");
}

#[test]
fn ranks_compares_two_ranks_in_the_console() {
    play("ranks_2");
}

#[test]
fn ranks_compares_four_ranks_in_the_console() {
    play("ranks_4");
}

#[test]
fn ranks_pieces_find_the_first_difference() {
    let done = Command::new("python3").arg(repo().join("tests/debug/pieces.py")).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn compound_workers_and_launcher_connect_in_any_order() {
    play("compound");
}

#[test]
fn single_process_is_debugged_without_a_launcher() {
    play("one_process");
}

#[test]
fn attach_to_a_running_job_rank_by_rank() {
    play("attach");
}

#[test]
fn rank_killed_at_a_breakpoint_is_reported_immediately() {
    play("killed");
}

#[test]
fn restarted_ranks_get_new_sessions() {
    play("restart");
}

#[test]
fn stop_ends_every_worker_and_session() {
    play("stop");
}

#[test]
fn rank_whose_debugger_disconnects_continues() {
    play("detach");
}

#[test]
fn node_of_two_is_debugged_alone() {
    play("nodes");
}

#[test]
fn panic_stops_where_it_happens() {
    play("panic");
}

#[test]
fn break_here_and_conditional_breakpoints_stop_one_rank() {
    play("break_here");
}

#[test]
fn tensor_formatter_survives_every_kind_of_tensor() {
    look_at("tensors");
}

#[test]
fn sampler_and_loader_formatters_show_the_position() {
    look_at("positions");
}

/// Plays the scenario of a worker whose variables are examined.
fn look_at(worker: &str) {
    let program = ddp_tests::program(worker);
    Ddp::new(["build", "-p", "ddp-tests", "--bin", worker]).run().succeeds();
    play_with(&alone(), worker, repo(), |python| {
        let source = repo().join(format!("tests/workers/{worker}.rs"));
        python.env("DDP_TEST_PROGRAM", &program).env("DDP_TEST_SOURCE", source);
    });
}

#[test]
fn f5_without_cargo_ddp_is_an_error_and_starts_nothing() {
    let dir = tempdir().unwrap();
    let alone = alone(); // no other test changes the sources while they are copied
    copy_sources(project(), dir.path());
    fs::remove_dir_all(dir.path().join(".cargo")).unwrap(); // with the alias of a clone's projects
    play_with(&alone, "missing", dir.path(), |python| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let without = std::env::split_paths(&path).filter(|folder| !folder.join("cargo-ddp").exists());
        python.env("PATH", std::env::join_paths(without).unwrap());
    });
}

#[test]
fn f5_stops_with_the_compilers_message_if_the_build_fails() {
    let main = project().join("src/main.rs");
    let text = fs::read_to_string(&main).unwrap();
    let broken = text.replacen("let mut losses = Mean::new();", "let mut losses = nowhere;", 1);
    assert_ne!(broken, text);
    let alone = alone(); // until the source is restored
    let result = std::panic::catch_unwind(|| {
        play_with(&alone, "broken", project(), |_| fs::write(&main, &broken).unwrap());
    });
    fs::write(&main, text).unwrap();
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn cppdbg_debugs_one_process() {
    play_with_gdb("one_process");
}

#[test]
fn cppdbg_debugs_the_launcher_and_each_rank_of_a_compound() {
    play_with_gdb("compound");
}

#[test]
fn cppdbg_stops_at_a_panic() {
    play_with_gdb("panic");
}

#[test]
fn cppdbg_stops_a_compound() {
    play_with_gdb("stop");
}

fn play_with_gdb(scenario: &str) {
    play_in(&alone(), scenario, project(), "tests/debug/gdb.py", &["gdb"], |_| {});
}

fn copy_sources(from: &Path, to: &Path) {
    for folder in ["src", ".cargo"] {
        fs::create_dir_all(to.join(folder)).unwrap();
    }
    for file in ["Cargo.toml", "Cargo.lock", "build.rs", "src/main.rs", ".cargo/config.toml"] {
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

#[test]
fn ddp_debug_without_a_debugger_is_reported_and_the_job_runs() {
    let args = ["run", "--nproc", "1", "--", "--help"];
    let done = Ddp::in_linear(args).env("DDP_DEBUG", "lldb-dap").run().succeeds().leaves_no_process();
    done.says(&["warning: DDP_DEBUG=lldb-dap is set, but this process is not running under a debugger"]);
    Ddp::in_linear(args)
        .env("DDP_DEBUG", "gdb")
        .run()
        .ends_with(2)
        .says(&["error: invalid DDP_DEBUG `gdb`: expected lldb-dap, codelldb or compound", "hint: "]);
    Ddp::in_linear(args)
        .env("DDP_DEBUG", "compound")
        .env("DDP_DEBUG_GROUP", "maybe")
        .run()
        .ends_with(2)
        .says(&["error: invalid DDP_DEBUG_GROUP `maybe`: expected on or off"]);
    Ddp::in_linear(["attach"])
        .run()
        .ends_with(2)
        .says(&["error: not running under a debugger, so no sessions can be opened", "hint: "]);
}

#[test]
fn attach_uses_the_only_job_or_the_chosen_one_of_several() {
    let (dir, cache) = (tempdir().unwrap(), tempdir().unwrap());
    let ddp = |args: &[&str]| Ddp::new(args).dir(dir.path()).env("XDG_CACHE_HOME", cache.path());
    let choose = || ddp(&["attach", "--choose"]).run();
    let start = || {
        let job = ddp(&["launch", "--nproc", "1", "--", "sleep", "600"]).start();
        job.wait_for("Running 1 worker");
        job
    };
    choose().ends_with(2).says(&["error: no running jobs", "hint: "]);
    let only = start();
    choose().succeeds().says(&["Chosen run-"]);
    let chosen = fs::read_to_string(dir.path().join(".ddp/debug/attach")).unwrap();
    assert!(ddp(&["ps"]).run().succeeds().stdout.contains(&format!("\n{chosen} ")), "{chosen}");
    let more = start();
    // There is no terminal for a prompt.
    choose().ends_with(2).says(&["error: could not determine which job to use (running: ", &chosen]);
    ddp(&["attach", "--choose", &chosen]).run().ends_with(2).says(&["--choose", "cannot be used with"]);
    for job in [only, more] {
        job.signal(ddp_tests::SIGTERM);
        job.wait().leaves_no_process();
    }
}

#[test]
fn compound_launcher_reports_missing_workers_and_stops_on_request() {
    let args = ["run", "--nproc", "2", "--", "--help"];
    let job = Ddp::in_linear(args).env("DDP_DEBUG", "compound").start();
    job.wait_for("Waiting for ranks 0, 1 of linear, which the debugger starts, for 597 s at most");
    Ddp::in_linear(args)
        .env("DDP_DEBUG", "compound")
        .run()
        .ends_with(2)
        .says(&["another launcher is already waiting for workers"]);
    let program = kept().join("linear-target/debug/linear");
    let socket = linear_project().join(".ddp/debug/linear.sock");
    let join = |rank: &str| {
        let mut worker = Command::new(&program);
        worker.env("DDP_JOIN", &socket).env("DDP_JOIN_RANK", rank).output().unwrap()
    };
    for (rank, words) in [
        ("2", "error: rank 2 not found: the launcher has ranks 0 to 1"),
        ("x", "error: invalid DDP_JOIN_RANK `x`: expected a rank"),
    ] {
        let output = join(rank);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
    job.signal(ddp_tests::SIGTERM);
    job.wait().ends_with(128 + ddp_tests::SIGTERM).leaves_no_process();
    assert!(!socket.exists());
}

#[test]
fn build_prints_the_program_and_prepares_the_debuggers_files() {
    let done = Ddp::in_linear(["build"]).run().succeeds();
    assert_eq!(Path::new(done.stdout.trim()), kept().join("linear-target/debug/linear"));
    let project = linear_project();
    assert_eq!(fs::read_link(project.join(".ddp/cargo-ddp")).unwrap(), cargo_ddp().canonicalize().unwrap());
    assert!(fs::read_to_string(project.join(".ddp/debug/ddp_debug.py")).unwrap().starts_with("# Version "));
    Ddp::in_linear(["build", "--bin", "nothing"]).run().ends_with(101);
}

#[test]
fn f5_on_a_step_stops_both_ranks_there() {
    play("at_step");
}
