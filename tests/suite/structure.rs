//! The structure of the crates: which module may import which, and where state and system calls are.

use std::collections::BTreeSet;
use std::fs;

use ddp_tests::repo;
use ddp_tests::structure::{Tree, sources};

/// A crate's modules from the bottom to the top: none imports from one further down in this list. Parts of `train` are below
/// `snapshot`, the rest above.
struct Crate {
    src: &'static str,
    layers: &'static [&'static str],
    /// What the module `os` alone may use.
    system: &'static [&'static str],
    /// Every `static` item and thread-local, with the reason why it is not a field of `worker::process::Process`.
    statics: &'static [(&'static str, &'static str)],
}

/// Everything that is special to an operating system.
const SYSTEM: [&str; 6] = ["libc", "rustix", "signal_hook", "std::os::fd", "/proc", "/sys"];

/// What only Linux has, of the calls that the launcher makes. It consists of system calls, so those that Unix systems have in
/// common are everywhere in it.
const LINUX: [&str; 19] = [
    "/proc",
    "/sys",
    "libc::fcntl",
    "libc::ioctl",
    "libc::pidfd_info",
    "libc::prctl",
    "libc::syscall",
    "rustix::event::epoll",
    "rustix::fs::renameat_with",
    "rustix::fs::statfs",
    "rustix::net::sockopt::socket_peercred",
    "rustix::process::PidfdFlags",
    "rustix::process::pidfd_open",
    "rustix::process::pidfd_send_signal",
    "rustix::process::set_child_subreaper",
    "rustix::process::set_parent_process_death_signal",
    "rustix::process::set_ptracer",
    "rustix::system",
    "rustix::thread",
];

const CRATES: [Crate; 3] = [
    Crate {
        src: "ddp-runtime/contract/src",
        layers: &[
            "os",
            "file",
            "file_names",
            "text",
            "env",
            "exit",
            "checksum",
            "aliases",
            "events",
            "error_file",
            "join",
            "rank_diff",
            "lock",
            "hold",
            "snapshot",
            "retention",
            "metrics",
            "job",
        ],
        system: &SYSTEM,
        statics: &[("lock/mod.rs: HELD", "one lock for a directory, whoever in this process asks for it")],
    },
    Crate {
        src: "ddp-runtime/src",
        layers: &[
            "os",
            "sys",
            "error",
            "worker",
            "cuda",
            "memory",
            "dist",
            "nn",
            "backends",
            "data",
            "train::floats",
            "train::scaled",
            "train::state_dict",
            "train::stateful",
            "train::optim",
            "train::lr_scheduler",
            "train::amp",
            "snapshot",
            "metrics",
            "train",
            "settings",
        ],
        system: &SYSTEM,
        statics: &[
            ("worker/process.rs: PROCESS", "the state of the process"),
            ("worker/debug/before_main.rs: BEFORE_MAIN", "the linker collects it, and nothing changes it"),
            ("sys/tensor.rs: ddp_debug_tensor_layout", "a constant of C++, for debuggers"),
            ("worker/panics.rs: PANIC", "each thread's own"),
            ("dist/in_hook.rs: RUNNING", "each thread's own"),
            ("dist/ddp/mod.rs: JOINING", "each thread's own"),
        ],
    },
    Crate {
        src: "cargo-ddp/src",
        layers: &[
            "version", "os", "exit", "shell", "status", "error", "machine", "project", "editor", "scaffold", "launch",
            "inspect", "ui", "log", "config", "cli", "commands",
        ],
        system: &LINUX,
        statics: &[
            ("cli/tools.rs: TEXT", "clap takes a reference that lives forever"),
            ("inspect/plots/draw.rs: FONTS", "registered with a library once"),
            ("os/descriptors.rs: FOUND", "the limit that this process was started with"),
            ("ui/screen.rs: QUEUES", "stdout and stderr are the process's"),
            ("ui/stdout.rs: FAILED", "stdout is the process's"),
        ],
    },
];

fn trees() -> impl Iterator<Item = (Crate, Tree)> {
    CRATES.into_iter().map(|one| {
        let tree = Tree::read(&repo().join(one.src));
        (one, tree)
    })
}

fn assert_none(one: &Crate, findings: &[String]) {
    assert!(findings.is_empty(), "{}:\n{}", one.src, findings.join("\n"));
}

#[test]
fn structure_has_no_upward_imports() {
    trees().for_each(|(one, tree)| assert_none(&one, &tree.upward_imports(one.layers)));
}

#[test]
fn structure_has_no_import_cycles() {
    trees().for_each(|(one, tree)| assert_none(&one, &tree.cycles()));
}

#[test]
fn structure_state_of_a_process_is_in_one_place() {
    for (one, tree) in trees() {
        let known: BTreeSet<String> = one.statics.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(tree.statics(), known, "{}", one.src);
    }
}

#[test]
fn structure_system_calls_are_in_one_module() {
    trees().for_each(|(one, tree)| assert_none(&one, &tree.outside("os", one.system)));
}

/// The rule in CONTRIBUTING.md: options can be written with `..Default::default()`, and errors and events can grow.
#[test]
fn structure_public_types_can_get_new_fields_and_variants() {
    let mut options = 0;
    for src in ["ddp-runtime/src", "ddp-runtime/contract/src"] {
        for (path, text) in sources(&repo().join(src)) {
            // `#[name]`, or `#[derive(name)]`.
            let has = |attributes: &[syn::Attribute], name| {
                attributes.iter().any(|attribute| match &attribute.meta {
                    syn::Meta::List(list) => {
                        list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|word| word == name)
                    }
                    meta => meta.path().is_ident(name),
                })
            };
            for item in syn::parse_file(&text).unwrap().items {
                match item {
                    syn::Item::Struct(it) if it.ident.to_string().ends_with("Options") && is_public(&it.vis) => {
                        let default = format!("impl Default for {}", it.ident);
                        assert!(!has(&it.attrs, "non_exhaustive"), "{path}: {}", it.ident);
                        assert!(has(&it.attrs, "Default") || text.contains(&default), "{path}: {}", it.ident);
                        options += 1;
                    }
                    syn::Item::Enum(it) if is_public(&it.vis) => {
                        let name = it.ident.to_string();
                        let grows =
                            name.ends_with("Error") || ["Event", "Backend", "ReduceOp"].contains(&name.as_str());
                        assert!(!grows || has(&it.attrs, "non_exhaustive"), "{path}: {name}");
                    }
                    _ => {}
                }
            }
        }
    }
    assert!(options >= 7, "{options} structs of options");
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

/// A debugger names a type by the module that defines it: one that was moved is shown without its summary.
#[test]
fn structure_debugger_formatters_name_existing_types() {
    let tree = Tree::read(&repo().join("ddp-runtime/src"));
    let mut found = 0;
    for script in ["ddp_debug.py", "ddp_types.py"] {
        let text = fs::read_to_string(repo().join("cargo-ddp/src/editor/debug/lldb").join(script)).unwrap();
        for name in text.split("ddp_runtime::").skip(1) {
            let end = name.find(|c: char| !c.is_alphanumeric() && !":_".contains(c)).unwrap();
            let path: Vec<&str> = name[..end].split("::").collect();
            assert!(tree.defines(&path), "{script} names ddp_runtime::{}, which is not defined there", &name[..end]);
            found += 1;
        }
    }
    assert!(found >= 8, "{found} types");
}
