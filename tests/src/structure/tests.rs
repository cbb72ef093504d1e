//! Tests of the structure checks: cycles, upward imports, statics.

use super::*;

fn tree(files: &[(&str, &str)]) -> Tree {
    Tree::parse(&files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
}

#[test]
fn structure_cycle_of_two_files_is_found() {
    let tree = tree(&[
        ("lib.rs", "mod a; mod b;"),
        ("a.rs", "use crate::b::B; pub struct A(B);"),
        ("b.rs", "pub struct B; pub fn make() -> crate::a::A { todo!() }"),
    ]);
    let cycles = tree.cycles();
    assert_eq!(cycles.len(), 1, "{cycles:?}");
    assert!(cycles[0].contains("a.rs -> b.rs (crate::b::B)"), "{cycles:?}");
    assert!(cycles[0].contains("b.rs -> a.rs (crate::a::A)"), "{cycles:?}");
}

#[test]
fn structure_cycle_between_a_parent_and_its_child_is_found_but_no_reexport() {
    let child = ("a/child.rs", "use super::Limit; pub struct Child(Limit);");
    let reexports = [("lib.rs", "mod a;"), ("a/mod.rs", "mod child; pub use child::Child; pub struct Limit;"), child];
    assert_eq!(tree(&reexports).cycles(), Vec::<String>::new());
    let uses =
        [("lib.rs", "mod a;"), ("a/mod.rs", "mod child; use child::Child; pub struct Limit; fn f(_: Child) {}"), child];
    assert_eq!(tree(&uses).cycles().len(), 1);
    let names = ("a/mod.rs", "mod child; pub use child::Child; pub struct Limit; fn f(_: Child) {}");
    assert_eq!(tree(&[("lib.rs", "mod a;"), names, child]).cycles().len(), 1, "it is used under the re-exported name");
}

#[test]
fn structure_cycle_of_folders_is_found_where_files_have_none() {
    let tree = tree(&[
        ("lib.rs", "mod top;"),
        ("top/mod.rs", "mod a; mod b;"),
        ("top/a/mod.rs", "mod one; mod two; pub use one::One; pub use two::Two;"),
        ("top/a/one.rs", "pub struct One;"),
        ("top/a/two.rs", "use crate::top::b::B; pub struct Two(B);"),
        ("top/b.rs", "use super::a::One; pub struct B(One);"),
    ]);
    let cycles = tree.cycles();
    assert_eq!(cycles.len(), 1, "{cycles:?}");
    assert!(cycles[0].starts_with("circle of imports: top/a, top/b"), "{cycles:?}");
}

#[test]
fn structure_upward_import_is_found_through_reexports_globs_and_macros() {
    let lib = ("lib.rs", "mod low; mod high; pub use high::Thing;");
    let high = ("high.rs", "pub struct Thing; pub fn call() {}");
    for low in [
        "use crate::Thing; pub struct Low(Thing);",
        "use crate::{high::{self}}; fn f() { high::call() }",
        "fn f() { println!(\"{:?}\", crate::high::call()); }",
        "use crate::high as other; fn f() { vec![1, { other::call(); 2 }]; }",
        "use crate::*; fn f(_: Thing) {}",
        "use super::high::*; fn f() { call() }",
    ] {
        let tree = tree(&[lib, high, ("low.rs", low)]);
        let found = tree.upward_imports(&["low", "high"]);
        assert_eq!(found.len(), 1, "{low}: {found:?}");
        assert!(found[0].starts_with("low.rs imports "), "{found:?}");
        assert!(tree.upward_imports(&["high", "low"]).is_empty(), "{low}");
    }
}

#[test]
fn structure_tests_and_local_names_are_not_imports() {
    let low = "
        #[cfg(test)] mod tests { use crate::high::Thing; }
        #[cfg(test)] use crate::high::Thing;
        #[cfg(test)] fn helper() -> crate::high::Thing { crate::high::Thing }
        /// See [`crate::high::Thing`].
        fn f() { let high = 1; println!(\"{high} {}\", std::high::Thing); other::high::Thing; }
    ";
    let tree = tree(&[("lib.rs", "mod low; mod high;"), ("high.rs", "pub struct Thing;"), ("low.rs", low)]);
    assert_eq!(tree.upward_imports(&["low", "high"]), Vec::<String>::new());
}

#[test]
fn structure_layers_are_complete_and_can_be_inside_of_a_folder() {
    let files = [
        ("lib.rs", "mod train; mod snapshot;"),
        ("train/mod.rs", "pub mod optim; mod run;"),
        ("train/optim.rs", "pub struct Sgd;"),
        ("train/run.rs", "use crate::snapshot::State; use super::optim::Sgd; fn f(_: State, _: Sgd) {}"),
        ("snapshot.rs", "use crate::train::optim::Sgd; pub struct State(Sgd);"),
    ];
    assert_eq!(tree(&files).upward_imports(&["train::optim", "snapshot", "train"]), Vec::<String>::new());
    let found = tree(&files).upward_imports(&["snapshot", "train"]);
    assert_eq!(found, ["snapshot.rs imports crate::train::optim::Sgd from train/optim.rs, which is above it"]);
    assert_eq!(tree(&files).upward_imports(&["train", "data"]).len(), 2, "snapshot is missing, and data is no module");
}

#[test]
fn structure_statics_and_other_crates_are_found() {
    let low = "
        use libc::{c_int, close};
        static ONE: u8 = 1;
        fn f() { static TWO: u8 = 2; assert!(std::os::fd::X == rustix::io::Y); }
        thread_local! { /// Text.
            static THREE: u8 = const { 3 }; }
        extern \"C\" { static four: u8; }
        #[cfg(test)] static FIVE: u8 = 5;
        fn g() { read(\"/proc/version\"); read(format!(\"/sys/{TWO}\")); read(\"/process\"); }
    ";
    let tree = tree(&[("lib.rs", "mod low; mod os;"), ("low.rs", low), ("os.rs", "use libc::open;")]);
    let statics: Vec<String> = tree.statics().into_iter().collect();
    assert_eq!(statics, ["low.rs: ONE", "low.rs: THREE", "low.rs: TWO", "low.rs: four"]);
    let outside = tree.outside("os", &["libc", "rustix", "std::os", "/proc", "/sys"]);
    let expected = ["libc::c_int", "libc::close", "rustix::io::Y", "std::os::fd::X", "/proc/version", "/sys/{TWO}"];
    assert_eq!(outside, expected.map(|path| format!("low.rs uses {path}")));
}

/// Each of the children imports by name what its parent, which imports all of theirs, has from another crate: looking that up
/// behind every glob took minutes.
#[test]
fn structure_names_of_other_crates_are_not_searched_behind_globs() {
    let names: Vec<String> = (0..12).map(|number| format!("child{number}")).collect();
    let mut parent = String::from("pub use other::Thing;");
    names.iter().for_each(|name| parent += &format!("mod {name}; pub use {name}::*;"));
    let mut files = vec![("lib.rs".to_owned(), "mod a;".to_owned()), ("a/mod.rs".to_owned(), parent)];
    files.extend(names.iter().map(|name| (format!("a/{name}.rs"), "use super::Thing; fn f(_: Thing) {}".to_owned())));
    let tree = Tree::parse(&files.into_iter().collect());
    assert_eq!(tree.cycles(), Vec::<String>::new());
}
