//! A new project's Cargo.lock: the versions that this version of cargo-ddp was tested with.
//!
//! They are the same in all projects that it makes, so that a second one finds its dependencies built
//! ([`shared`](crate::project::shared)). `cargo update` brings newer ones.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::source::RuntimeSource;
use super::template::Template;

/// The workspace's own: a link, whose content is in the package.
const TESTED: &str = include_str!("../../templates/shared/versions.lock");
const PACKAGE: &str = "[[package]]\n";

/// What a template needs of the tested versions. cargo adds the project itself, and drops what a platform or feature does
/// not use.
pub(super) fn of_template(template: &Template, source: &RuntimeSource) -> String {
    let (head, packages) = TESTED.split_once(PACKAGE).unwrap_or((TESTED, ""));
    let packages: Vec<(&str, Table)> =
        packages.split(PACKAGE).filter_map(|text| Some((text, text.parse().ok()?))).collect();
    let mut wanted: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = template.dependencies().map(str::to_owned).collect();
    while let Some(wish) = open.pop() {
        if !wanted.insert(wish.clone()) {
            continue;
        }
        for (_, package) in packages.iter().filter(|(_, package)| is_meant(package, &wish)) {
            let dependencies = package.get("dependencies").and_then(Value::as_array).into_iter().flatten();
            open.extend(dependencies.filter_map(Value::as_str).map(str::to_owned));
        }
    }
    // With a release's project, ddp-runtime is from the registry, and cargo locks it itself.
    let has_source = |package: &Table| package.contains_key("source") || matches!(source, RuntimeSource::Clone { .. });
    let kept =
        packages.iter().filter(|(_, package)| has_source(package) && wanted.iter().any(|wish| is_meant(package, wish)));
    let mut lock = head.to_owned();
    kept.for_each(|(text, _)| lock.extend([PACKAGE, text]));
    lock.truncate(lock.trim_end().len());
    lock + "\n"
}

/// Whether an entry of `dependencies` means the package: `name`, or `name version`.
fn is_meant(package: &Table, wish: &str) -> bool {
    let text = |key| package.get(key).and_then(Value::as_str);
    let mut words = wish.split(' ');
    words.next() == text("name") && words.next().is_none_or(|version| Some(version) == text("version"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scaffold::TEMPLATES;

    #[test]
    fn lock_has_what_a_template_needs_and_little_more() {
        let clone = RuntimeSource::Clone { root: "/clone".into() };
        for template in TEMPLATES {
            let text = of_template(template, &clone);
            let lock: Table = text.parse().unwrap();
            let names: Vec<_> =
                lock["package"].as_array().unwrap().iter().map(|package| package["name"].as_str().unwrap()).collect();
            for name in template.dependencies().chain(["torch-sys", "ddp-contract", "libc"]) {
                assert!(names.contains(&name), "{}: {name}", template.name);
            }
            for name in ["plotters", "nvml-wrapper", "cargo-ddp", "ddp-tests"] {
                assert!(!names.contains(&name), "{}: {name}", template.name);
            }
            assert!(names.len() < TESTED.matches(PACKAGE).count(), "{}", template.name);
            assert_eq!(lock["version"], Value::Integer(4));
            assert!(!of_template(template, &RuntimeSource::Release).contains("\"ddp-runtime\"\nversion"));
        }
    }
}
