//! The programs of a project that train.

use super::project::Project;
use super::select;
use crate::project::trainable::Trainable;

impl Project {
    /// The binaries and examples of packages that depend on ddp-runtime, and its own, each with its package's name.
    pub fn trainable(&self) -> Vec<(String, Trainable)> {
        let trains = |package: &&cargo_metadata::Package| {
            package.name == "ddp-runtime" || package.dependencies.iter().any(|other| other.name == "ddp-runtime")
        };
        let members = self.metadata.workspace_packages();
        let alone = members.len() == 1;
        let packages = members.into_iter().filter(trains);
        let targets = packages.flat_map(|package| {
            let left_out = package.metadata["ddp"]["vscode"] == false;
            let is_root = package.manifest_path.parent() == Some(&self.metadata.workspace_root);
            // At the root of a workspace cargo builds the default members, which may be others.
            let is_default = self.is_only_default(package);
            let runs = |example| {
                package
                    .targets
                    .iter()
                    .filter(move |target| select::is_program(target) && target.is_example() == example)
            };
            runs(false).chain(runs(true)).map(move |target| {
                let name = package.name.to_string();
                let (example, on_request) = (target.is_example(), target.is_example() || left_out);
                let trainable = Trainable {
                    name: target.name.clone(),
                    label: target.name.clone(),
                    example,
                    on_request,
                    package: (!(is_root && (alone || is_default))).then(|| name.clone()),
                    features: select::features_to_turn_on(package, target),
                    package_features: package.features.keys().cloned().collect(),
                    workers: None,
                };
                (name, trainable)
            })
        });
        let mut targets: Vec<_> = targets.collect();
        tell_namesakes_apart(&mut targets);
        targets
    }

    /// Whether cargo, started at the workspace's root, builds this package and no other.
    fn is_only_default(&self, package: &cargo_metadata::Package) -> bool {
        let root = &self.metadata.workspace_root;
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
        let manifest: toml::Table = manifest.trim_start_matches('\u{feff}').parse().unwrap_or_default();
        let listed = manifest.get("workspace").is_some_and(|workspace| workspace.get("default-members").is_some());
        // A root that is a package is the only default member, unless the workspace lists some.
        !listed && package.manifest_path.parent() == Some(root)
    }
}

/// Gives binaries and examples with the same name different labels.
fn tell_namesakes_apart(targets: &mut [(String, Trainable)]) {
    let all: Vec<(String, String, bool)> =
        targets.iter().map(|(package, target)| (package.clone(), target.name.clone(), target.example)).collect();
    for (package, target) in targets {
        let others = || all.iter().filter(|(_, name, _)| *name == target.name);
        let elsewhere = others().any(|(other, ..)| other != package);
        let both_kinds = others().any(|(_, _, example)| *example != target.example);
        let words = [elsewhere.then(|| package.clone()), (both_kinds && target.example).then(|| "example".to_owned())];
        let words: Vec<String> = words.into_iter().flatten().collect();
        if !words.is_empty() {
            target.label = format!("{} ({})", target.name, words.join(" "));
        }
    }
}
