//! Each template: created, tested, linted, trained on two ranks, killed and resumed. All are built in one folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use ddp_contract::snapshot;
use ddp_tests::{
    CudaTorch, Ddp, Done, SIGINT, SIGKILL, cargo_ddp, kept, libtorch_of, linear_project, repo, signal_process,
    snapshots, stdout_of,
};
use tempfile::tempdir;

const TEMPLATES: [&str; 4] = ["bare", "linear", "vision", "mingpt"];

/// Projects of all templates, created by `cargo ddp new`, linked to a libtorch.
fn project(template: &str) -> PathBuf {
    static PROJECTS: OnceLock<PathBuf> = OnceLock::new();
    let folder = PROJECTS.get_or_init(|| {
        linear_project(); // builds libtorch's bindings for all
        let folder = kept().join("templates");
        let _ = fs::remove_dir_all(&folder);
        for template in TEMPLATES {
            let project = folder.join(template);
            Ddp::new(["new", project.to_str().unwrap(), "--template", template]).run().succeeds();
            fs::copy(repo().join("Cargo.lock"), project.join("Cargo.lock")).unwrap();
            Ddp::new(["setup"]).dir(&project).run().succeeds();
        }
        folder
    });
    folder.join(template)
}

fn cargo(template: &str, args: &[&str]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    let folder = project(template);
    cargo.args(args).env("CARGO_TARGET_DIR", kept().join("linear-target")).env("LIBTORCH", libtorch_of(&folder));
    cargo.current_dir(folder);
    cargo
}

fn run(template: &str, dir: &Path, args: &[&str]) -> Ddp {
    let run = ["run", "--nproc", "2", "--", "--snapshots", dir.to_str().unwrap()];
    Ddp::in_linear_at(&project(template), run.iter().chain(args))
}

/// The number after the last occurrence of some words in the output.
fn number_after(text: &str, words: &str) -> f64 {
    let rest = text.rsplit_once(words).unwrap_or_else(|| panic!("no {words:?} in:\n{text}")).1;
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn new_list_names_all_templates() {
    let done = Ddp::new(["new", "--list"]).run().succeeds();
    let names: Vec<_> = done.stdout.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(names, TEMPLATES);
}

#[test]
fn templates_pass_their_own_tests() {
    for template in TEMPLATES {
        let stdout = stdout_of(&mut cargo(template, &["test"]));
        assert!(stdout.contains("... ok"), "{template}: {stdout}");
    }
}

#[test]
fn templates_pass_clippy() {
    for template in TEMPLATES {
        stdout_of(&mut cargo(template, &["clippy", "-q", "--all-targets", "--", "-D", "warnings"]));
    }
}

#[test]
fn bare_ranks_add_up_their_numbers() {
    let done = Ddp::in_linear_at(&project("bare"), ["run", "--nproc", "2"]).run().succeeds().leaves_no_process();
    assert_eq!(done.stdout.matches("of 2 on Cpu: the sum is 3").count(), 2, "{}", done.stdout);
}

#[test]
fn vision_recognizes_97_percent_of_the_digits_and_keeps_the_best() {
    let dir = tempdir().unwrap();
    run("vision", dir.path(), &["--help"]).run().succeeds(); // built, not counted
    let start = Instant::now();
    let done = run("vision", dir.path(), &[]).run().succeeds().leaves_no_process();
    eprintln!("vision took {:?}", start.elapsed());
    assert!(number_after(&done.stdout, "best accuracy ") >= 97.0, "{}", done.stdout);
    assert!(snapshots(dir.path()).len() <= 3, "the newest two and the best");
}

#[test]
fn mingpt_learns_and_generates_text() {
    let dir = tempdir().unwrap();
    run("mingpt", dir.path(), &["--help"]).run().succeeds();
    let args = ["--truncate", "0.2", "--max-epochs", "2", "--use-amp=false"];
    let done = run("mingpt", dir.path(), &args).run().succeeds().leaves_no_process();
    assert!(number_after(&done.stdout, "test loss ") < 2.7, "{}", done.stdout);
    let sample = ["run", "-q", "--bin", "sample", "--", "--length", "100", "--prompt", "And ", "--snapshots"];
    let text = stdout_of(cargo("mingpt", &sample).arg(dir.path()));
    assert!(text.starts_with("And ") && text.chars().count() == 105, "{text:?}");
}

/// Runs `template` undisturbed, and with a rank that is killed at some moment; the snapshots at the end are the same.
fn a_kill_changes_nothing(template: &str, args: &[&str], first: &str) -> (Done, Done) {
    let (undisturbed, killed) = (tempdir().unwrap(), tempdir().unwrap());
    let expected = run(template, undisturbed.path(), args).run().succeeds();
    let job = run(template, killed.path(), args).start();
    job.wait_for(first);
    let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos();
    eprintln!("{template}: killed after {} ms", moment % 900);
    std::thread::sleep(Duration::from_millis(u64::from(moment % 900)));
    signal_process(job.workers()[(moment % 2) as usize], SIGKILL);
    let done = job.wait().succeeds().says(&["SIGKILL"]).leaves_no_process();
    let [a, b] = [&undisturbed, &killed].map(|dir| snapshots(dir.path())[0].clone());
    assert_eq!(a.file_name(), b.file_name());
    for file in ["model.safetensors", "optimizer.safetensors"] {
        assert!(fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap(), "{template}: {file} differs");
    }
    (expected, done)
}

#[test]
fn vision_killed_at_a_random_step_ends_like_an_uninterrupted_run() {
    let (expected, done) = a_kill_changes_nothing("vision", &["--total-epochs", "5"], "epoch   2");
    let best = |done: &Done| number_after(&done.stdout, "best accuracy ");
    assert_eq!(best(&done), best(&expected));
}

#[test]
fn mingpt_killed_at_a_random_step_ends_like_an_uninterrupted_run() {
    let small = "--n-layer 1 --n-head 2 --n-embd 32 --truncate 0.1 --max-epochs 5 --dropout 0.1".split(' ');
    let (expected, done) = a_kill_changes_nothing("mingpt", &small.collect::<Vec<_>>(), "epoch    2");
    let loss = |done: &Done| number_after(&done.stdout, "test loss ");
    assert_eq!(loss(&done), loss(&expected));
}

#[test]
fn linear_killed_at_a_random_step_ends_like_an_uninterrupted_run() {
    a_kill_changes_nothing("linear", &["--total-epochs", "40"], "epoch   6");
}

#[test]
fn ctrl_c_saves_and_the_next_start_resumes() {
    let long = [
        ("linear", "--total-epochs 100000 --save-every 100000", "epoch   2"),
        ("vision", "--total-epochs 500 --patience 500 --save-every 500", "epoch   2"),
        ("mingpt", "--n-layer 1 --n-embd 32 --save-every 500 --log-every 1", "step     5"),
    ];
    for (template, args, first) in long {
        let dir = tempdir().unwrap();
        let args: Vec<_> = args.split(' ').collect();
        let job = run(template, dir.path(), &args).start();
        job.wait_for(first);
        job.signal(SIGINT);
        let ways_out = ["Stopping after saving", "Stopped as asked; run it again to resume from "];
        job.wait().ends_with(75).says(&ways_out).leaves_no_process();
        let saved = snapshots(dir.path());
        assert_eq!(saved.len(), 1, "{template}: {saved:?}");
        // In mid-epoch, these weights have not been evaluated.
        let manifest = snapshot::verify(&saved[0]).unwrap();
        assert!(manifest.samples_in_epoch == 0 || manifest.metric.is_none(), "{template}: {manifest:?}");
        let again = run(template, dir.path(), &args).start();
        again.wait_for(&format!("Resuming from {}", saved[0].canonicalize().unwrap().display()));
        again.signal(SIGINT);
        again.wait().leaves_no_process();
    }
}

/// The guide's three commands for a template, each with its output and its time.
fn three_commands(template: &str) -> Vec<(String, Duration)> {
    let folder = tempdir().unwrap();
    let guide = fs::read_to_string(repo().join("docs/templates.md")).unwrap();
    let commands: Vec<_> = guide.lines().filter_map(|line| line.strip_prefix("    cargo ")).collect();
    let first = commands.iter().position(|line| line.contains(&format!("--template {template}"))).unwrap();
    let path = format!("{}:{}", cargo_ddp().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut dir = folder.path().to_owned();
    let mut done = Vec::new();
    for command in &commands[first..first + 3] {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("cargo {command}")]).current_dir(&dir).env("PATH", &path);
        shell.env("CARGO_TARGET_DIR", kept().join("linear-target")).env("LIBTORCH", libtorch_of(linear_project()));
        let start = Instant::now();
        done.push((stdout_of(&mut shell), start.elapsed()));
        eprintln!("{template}: {:?} for `cargo {command}`", start.elapsed());
        if let Some((_, project)) = command.split_once("&& cd ") {
            dir = folder.path().join(project);
            fs::copy(repo().join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
        }
    }
    done
}

/// Many times the usual time, because tests share the machine.
const AT_MOST: Duration = Duration::from_secs(1200);

#[test]
fn vision_is_trained_by_three_commands() {
    let done = three_commands("vision");
    for (stdout, time) in &done[1..] {
        assert!(number_after(stdout, "best accuracy ") >= 97.0, "{stdout}");
        assert!(*time < AT_MOST, "{time:?}");
    }
}

#[test]
fn mingpt_is_trained_by_three_commands() {
    let done = three_commands("mingpt");
    let (trained, time) = &done[1];
    // Guessing among its characters has a loss of 4.2.
    assert!(number_after(trained, "test loss ") < 1.8, "{trained}");
    assert!(*time < AT_MOST, "{time:?}");
    assert!(done[2].0.starts_with("In the beginning ") && done[2].0.len() > 200, "{}", done[2].0);
}

#[test]
fn template_options_are_read_from_flags_and_train_toml() {
    let dir = tempdir().unwrap();
    let (file, snapshot_dir) = (dir.path().join("mine.toml"), dir.path().join("s"));
    let with = |text: &str| {
        fs::write(&file, text).unwrap();
        let args = ["--config", file.to_str().unwrap(), "--max-epochs", "0", "--n-layer", "1"];
        let run = ["run", "--max-restarts", "0", "--", "--snapshots", snapshot_dir.to_str().unwrap()];
        Ddp::in_linear_at(&project("mingpt"), run.iter().chain(&args)).run()
    };
    with("n_layers = 3\n").ends_with(2).says(&["unknown option `n_layers`, expected one of text, train_split"]);
    with("n_head = 'many'\n").ends_with(2).says(&["invalid value 'many' for '--n-head"]);
    with("n_layer = 7\nn_embd = 8\nmax_epochs = 9\n").succeeds();
    let model = fs::read_to_string(snapshots(&snapshot_dir)[0].join("state.json")).unwrap();
    assert!(model.contains("\"n_layer\": 1") && model.contains("\"n_embd\": 8"), "{model}");
}

/// A FIFO of that name kept every worker from starting, forever.
#[test]
fn train_toml_is_a_regular_file_unless_it_is_named() {
    let dir = tempdir().unwrap();
    let built = Ddp::in_linear_at(&project("mingpt"), ["build", "--bin", "mingpt"]).run().succeeds().stdout;
    let made = Command::new("mkfifo").arg(dir.path().join("train.toml")).status().unwrap();
    assert!(made.success());
    let run = |script: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", script, built.trim()]).current_dir(dir.path());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let printed = run("exec \"$0\"");
    assert!(printed.contains("train.toml: not a regular file"), "{printed}");
    let printed = run("exec \"$0\" --config <(echo 'n_layers = 3')");
    assert!(printed.contains("unknown option `n_layers`"), "{printed}");
}

#[test]
fn mingpt_losses_match_its_python_twin() {
    let Some(torch) = CudaTorch::find() else { return };
    let dir = tempdir().unwrap();
    let settings =
        "--n-layer 2 --n-head 2 --n-embd 32 --block-size 32 --batch-size 8 --truncate 0.02 --warmup-steps 10 \
        --log-every 1 --max-epochs"
            .split_whitespace();
    let train = |epochs: &'static str| {
        let args: Vec<_> = settings.clone().chain([epochs]).collect();
        run("mingpt", dir.path(), &args).env("OMP_NUM_THREADS", "1").run().succeeds().stdout
    };
    train("0"); // the first weights, as a snapshot
    let first = snapshots(dir.path())[0].clone();
    let copy = tempdir().unwrap();
    for file in ["model.safetensors", "state.json"] {
        fs::copy(first.join(file), copy.path().join(file)).unwrap();
    }
    let losses = |text: &str| -> Vec<f64> {
        let lines =
            text.lines().filter_map(|line| line.split_once("step ").filter(|(_, rest)| rest.contains("  loss ")));
        lines.map(|(_, rest)| number_after(rest, "  loss ")).collect()
    };
    let ours = losses(&train("3"));
    let mut python = torch.torchrun();
    python
        .arg(repo().join("tests/golden/mingpt.py"))
        .arg(project("mingpt"))
        .arg(copy.path())
        .arg(ours.len().to_string());
    let theirs = losses(&stdout_of(&mut python));
    assert!(ours.len() > 100 && ours.len() == theirs.len(), "{} and {} losses", ours.len(), theirs.len());
    // They are rounded to 1e-6 when printed. In training, different rounding grows.
    for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let bound = if step < 20 { 2e-6 } else { 1e-3 };
        assert!((ours - theirs).abs() <= bound, "step {}: {ours} for {theirs}", step + 1);
    }
    assert!(ours[ours.len() - 1] < 0.8 * ours[0], "it learns");
}
