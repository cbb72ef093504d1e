//! Unusual files and names: broken manifests, CRLF line ends, blanks, colons, accents.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use ddp_tests::stdout_of;
use tempfile::tempdir;

use super::*;

#[test]
fn broken_manifest_is_reported_as_broken_and_not_as_missing() {
    let dir = project(&["train"], "");
    let manifest = dir.path().join("Cargo.toml");
    let good = fs::read_to_string(&manifest).unwrap();
    let broken = [
        (good.replace("[dependencies]", "[dependencies"), "[dependencies"),
        (good.replace("version = \"0.1.0\"", "version = \"one\""), "version"),
        (good.replace("edition = \"2024\"", "edition = \"2124\""), "2124"),
        (good.replace("[workspace]", "[workspace]\nmembers = [\"gone\"]"), "gone"),
    ];
    for (text, word) in broken {
        fs::write(&manifest, text).unwrap();
        for args in
            [&["run"][..], &["build"], &["vscode"], &["vscode", "--check"], &["exec", "true"], &["runs"], &["setup"]]
        {
            let done =
                ddp(dir.path(), args).run().ends_with(2).says(&["cargo can't read this project: ", word, "hint: "]);
            assert!(!done.stderr.contains("no cargo project here"), "{args:?}: {}", done.stderr);
        }
        let doctor = ddp(dir.path(), &["doctor"]).run();
        assert!(doctor.stdout.contains("cargo can't read this project"), "{}", doctor.stdout);
    }
    let nowhere = tempdir().unwrap();
    ddp(nowhere.path(), &["run"]).run().ends_with(2).says(&["no cargo project here"]);
    ddp(nowhere.path(), &["run", "--manifest-path", "Cargo.toml"]).run().ends_with(2).says(&["no cargo project here"]);
}

#[test]
fn init_reports_a_broken_crate_and_does_not_join_a_workspace() {
    let dir = workspace("", ("train", ""), ("eval", ""));
    let manifest = dir.path().join("second/Cargo.toml");
    let broken = fs::read_to_string(&manifest).unwrap().replace("edition = \"2024\"", "edition = \"2124\"");
    fs::write(&manifest, &broken).unwrap();
    ddp(&dir.path().join("second"), &["init"]).run().ends_with(2).says(&["cargo can't read this project", "2124"]);
    assert_eq!(fs::read_to_string(&manifest).unwrap(), broken);
}

#[test]
fn init_keeps_line_ends_and_a_byte_order_mark() {
    let dir = tempdir().unwrap();
    let manifest = "\u{feff}# mine\r\n[package]\r\nname = \"m\"\r\nversion = \"0.1.0\"\r\nedition = \"2024\"\r\n\r\n[dependencies]\r\n";
    write(dir.path().join("Cargo.toml"), manifest);
    write(dir.path().join(".cargo/config.toml"), "[build]\r\njobs = 2\n# mixed\r\n");
    let ignored = [b"/target\r\n/caf\xe9\r\n".as_slice(), b"/last"].concat();
    fs::write(dir.path().join(".gitignore"), &ignored).unwrap();
    write(dir.path().join("src/main.rs"), "fn main() {}\r\n");
    ddp(dir.path(), &["init"]).run().succeeds();
    let text = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let now = text("Cargo.toml");
    assert!(now.starts_with(manifest) && now.contains("tch = \"0.26\"\r\n"), "{now:?}");
    assert_eq!(now.matches('\n').count(), now.matches("\r\n").count(), "{now:?}");
    let config = text(".cargo/config.toml");
    assert!(
        config.contains("[build]\r\njobs = 2\n# mixed\r\n") && config.contains("optional = true }]\r\n"),
        "{config:?}"
    );
    let gitignore = fs::read(dir.path().join(".gitignore")).unwrap();
    assert_eq!(gitignore, [&ignored[..], b"\r\n/.ddp\r\n/snapshots\r\n"].concat());
    // cargo reads it, and a second call changes nothing.
    ddp(dir.path(), &["init"]).run().succeeds().says(&["Unchanged"]);
    assert_eq!(text("Cargo.toml"), now);
    // A package can't depend on its namesake.
    write(dir.path().join("Cargo.toml"), &manifest.replace("\"m\"", "\"tch\""));
    ddp(dir.path(), &["init"]).run().ends_with(2).says(&["a package named `tch` can't depend on tch"]);
}

/// All that is in a folder: names, and what is in files.
fn everything_in(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.push((path.clone(), vec![]));
            all.extend(everything_in(&path));
        } else {
            all.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn init_that_fails_changes_nothing() {
    let manifest = |more: &str| format!("[package]\nname = \"m\"\nversion = \"0.1.0\"\nedition = \"2024\"\n{more}");
    for (file, text, message) in [
        ("Cargo.toml", manifest("").replace("2024", "2124"), "2124"),
        ("Cargo.toml", manifest("[package.metadata.ddp]\nnprocs = 3\n"), "did you mean `nproc`?"),
        ("Cargo.toml", manifest("[workspace]\n[dependencies]\ngone.path = \"gone\"\n"), "gone"),
        (".vscode/launch.json", "{ \"configurations\": [ {\"name\" } ]}".to_owned(), "nothing was changed"),
        (".vscode/tasks.json", "[".to_owned(), "nothing was changed"),
        (".cargo/config.toml", "build.target = 5\n".to_owned(), "build.target"),
    ] {
        let dir = tempdir().unwrap();
        write(dir.path().join("Cargo.toml"), &manifest(""));
        write(dir.path().join("src/main.rs"), "fn main() {}\n");
        write(dir.path().join(".gitignore"), "/target");
        write(dir.path().join(file), &text);
        let before = everything_in(dir.path());
        ddp(dir.path(), &["init"]).run().ends_with(2).says(&[message]);
        assert_eq!(everything_in(dir.path()), before, "{file}: {text}");
    }
}

#[test]
fn init_finds_dependencies_under_other_names_and_in_other_tables() {
    let (dir, stand_in) = (tempdir().unwrap(), tempdir().unwrap());
    package(stand_in.path(), ".", "unused", &[], "");
    let runtime = format!("path = {:?}", stand_in.path().join("stand-in"));
    let manifest = "[package]\nname = \"m\"\nversion = \"0.1.0\"\nedition = \"2024\"\n";
    for (dependencies, added) in [
        (format!("[dependencies]\nrt = {{ package = \"ddp-runtime\", {runtime} }}\n"), "tch = \"0.26\"\n"),
        (format!("[target.'cfg(unix)'.dependencies]\nddp-runtime = {{ {runtime} }}\ntch = \"0.26\"\n"), ""),
    ] {
        let (path, text) = (dir.path().join("Cargo.toml"), format!("{manifest}{dependencies}"));
        write(&path, &text);
        write(dir.path().join("src/main.rs"), "fn main() {}\n");
        let _ = fs::remove_file(dir.path().join("build.rs"));
        ddp(dir.path(), &["init"]).run().succeeds();
        let now = fs::read_to_string(&path).unwrap();
        let rest = now.strip_prefix(&format!("{text}{added}")).unwrap_or_else(|| panic!("{now}"));
        assert!(rest.starts_with("\n[build-dependencies]\nddp-build = { ") && rest.lines().count() == 3, "{now}");
        // A package that is there twice would be refused.
        stdout_of(
            Command::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(dir.path()),
        );
        ddp(dir.path(), &["init"]).run().succeeds().says(&["Unchanged"]);
    }
    let example = fs::read_to_string(dir.path().join("examples/train.rs")).unwrap();
    assert!(example.contains("\nuse rt as ddp_runtime;\n"), "{example}");
}

#[test]
fn new_refuses_what_could_not_be_built() {
    let dir = tempdir().unwrap();
    for (path, name) in [("a:b", None), ("a:b", Some("fine")), ("a:b/c", None)] {
        let name: Vec<&str> = name.into_iter().flat_map(|name| ["--name", name]).collect();
        ddp(dir.path(), &[&["new", path], &name[..]].concat()).run().ends_with(2).says(&[
            "cargo can't build in ",
            "the path contains a `:`",
            "hint: choose another folder",
        ]);
    }
    // Also behind a link, and for an existing crate.
    fs::create_dir(dir.path().join("a:b")).unwrap();
    symlink("a:b", dir.path().join("link")).unwrap();
    ddp(dir.path(), &["new", "link/m"]).run().ends_with(2).says(&["a:b/m: the path contains a `:`"]);
    write(dir.path().join("a:b/Cargo.toml"), "[package]\nname = \"m\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    ddp(&dir.path().join("a:b"), &["init"]).run().ends_with(2).says(&["a:b: the path contains a `:`"]);
    assert_eq!(fs::read_dir(dir.path().join("a:b")).unwrap().count(), 1);
    fs::remove_dir_all(dir.path().join("a:b")).unwrap();
    fs::remove_file(dir.path().join("link")).unwrap();
    for path in ["/", ".."] {
        ddp(dir.path(), &["new", path]).run().ends_with(2).says(&["already exists"]);
    }
    for (name, problem) in [
        ("torch-sys", "depends on a package with this name"),
        ("torch_sys", "depends on a package with this name"),
        ("ddp_runtime", "depends on a package with this name"),
        ("clap", "depends on a package with this name"),
        ("std", "cargo reserves this name"),
        ("async", "keyword"),
        ("émile", "only ASCII letters"),
        ("模型", "only ASCII letters"),
    ] {
        ddp(dir.path(), &["new", name]).run().ends_with(2).says(&[problem, "hint: choose another name with --name"]);
    }
    ddp(dir.path(), &["new", "modèle"]).run().ends_with(2).says(&["--name modele"]);
    ddp(dir.path(), &["new", "sample", "--template", "mingpt"])
        .run()
        .ends_with(2)
        .says(&["another binary with this name"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // The folder may have any name.
    ddp(dir.path(), &["new", "modèle", "--name", "modele"]).run().succeeds();
    ddp(&dir.path().join("modèle"), &["vscode", "--check"]).run().succeeds();
}

#[test]
fn printed_commands_can_be_copied_into_a_shell() {
    let dir = tempdir().unwrap();
    for (at, name) in ["with blank", "it's", "$HOME", "a;b", "-n", "a&b \"c\""].into_iter().enumerate() {
        let path = dir.path().join(at.to_string());
        fs::create_dir(&path).unwrap();
        let done = ddp(&path, &["new", "--name", "m", "--", name]).run().succeeds();
        let next = done.stderr.lines().find_map(|line| line.trim().strip_prefix("Next ")).unwrap();
        let cd = next.split(" && ").next().unwrap();
        let printed = stdout_of(Command::new("sh").args(["-c", &format!("{cd} && pwd -P")]).current_dir(&path));
        assert_eq!(Path::new(printed.trim_end()), path.join(name).canonicalize().unwrap(), "{cd}");
    }
    let args = ["launch", "--nproc", "1", "--dry-run", "--", "printf", "%s|", "two words", "it's", "$x"];
    let done = ddp(dir.path(), &args).run().succeeds();
    let command = done.stdout.lines().find_map(|line| line.strip_prefix("command: ")).unwrap();
    assert_eq!(stdout_of(Command::new("sh").args(["-c", command])), "two words|it's|$x|");
}
