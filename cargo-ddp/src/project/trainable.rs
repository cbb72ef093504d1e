//! Binaries and examples that train, and how cargo and `cargo ddp run` select them.

/// A binary, or an example, that trains: its package depends on ddp-runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trainable {
    /// Its name, as cargo has it.
    pub name: String,
    /// What its entries call it: its name, unless another binary or example has the same.
    pub label: String,
    /// It is an example.
    pub example: bool,
    /// It gets configurations only on request: an example, or of a package with `vscode = false` in
    /// `[package.metadata.ddp]`.
    pub on_request: bool,
    /// Its package, if cargo needs `--package`.
    pub package: Option<String>,
    /// Features that it needs, and that are not on by default.
    pub features: Vec<String>,
    /// All features that its package has.
    pub package_features: Vec<String>,
    /// How many workers its package has in `[package.metadata.ddp]`.
    pub workers: Option<Workers>,
}

/// A number of workers, and the option that gives it to `cargo ddp run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workers {
    /// How many.
    pub count: usize,
    /// The list of `--gpus`; without it, `--nproc`.
    pub gpus: Option<String>,
}

impl Workers {
    /// `--nproc COUNT`.
    pub fn nproc(count: usize) -> Self {
        Self { count, gpus: None }
    }

    pub(crate) fn args(&self) -> [String; 2] {
        match &self.gpus {
            Some(list) => ["--gpus".into(), list.clone()],
            None => ["--nproc".into(), self.count.to_string()],
        }
    }
}

impl Trainable {
    /// The flags that choose it.
    pub(crate) fn selection(&self) -> Vec<String> {
        let package = self.package.iter().flat_map(|name| ["--package".to_owned(), name.clone()]);
        let flag = if self.example { "--example" } else { "--bin" };
        let features = (!self.features.is_empty()).then(|| ["--features".to_owned(), self.features.join(",")]);
        package.chain([flag.to_owned(), self.name.clone()]).chain(features.into_iter().flatten()).collect()
    }

    /// The program, below a folder of a profile.
    pub(crate) fn program(&self, target: &str, profile: &str) -> String {
        let examples = if self.example { "examples/" } else { "" };
        format!("{target}/{profile}/{examples}{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_names_what_cargo_cannot_infer() {
        let one = Trainable {
            name: "m".into(),
            label: "m (example)".into(),
            example: true,
            on_request: true,
            package: Some("p".into()),
            features: vec![],
            package_features: vec![],
            workers: None,
        };
        assert_eq!(one.selection().join(" "), "--package p --example m");
        let features = vec!["a".to_owned(), "b/c".to_owned()];
        let needy = Trainable { features, ..one.clone() };
        assert_eq!(needy.selection().join(" "), "--package p --example m --features a,b/c");
        assert_eq!(one.program("t", "debug"), "t/debug/examples/m");
    }
}
