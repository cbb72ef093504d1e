//! The templates, embedded into this program. `templates/` is a link to the repository's folder of that name, whose
//! files `cargo package` puts into the package.

use minijinja::{Environment, UndefinedBehavior, Value};

use crate::{Error, Result};

/// What `cargo ddp new --template NAME` renders.
#[derive(Debug)]
pub struct Template {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    pub(super) files: &'static [File],
}

/// A file of a template. Names end in `.jinja` if the file has values to fill in; other files are copied unchanged.
#[derive(Debug)]
pub(super) struct File {
    /// Where it goes, below the project's folder.
    pub(super) path: &'static str,
    source: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($source:literal => $path:literal),+ $(,)?) => {
        &[$(File { path: $path, source: $source, bytes: include_bytes!(concat!("../../templates/", $source)) }),+]
    };
}

/// All templates, the simplest first.
pub const TEMPLATES: &[Template] = &[
    Template {
        name: "bare",
        about: "one all-reduce, to start your own training loop from",
        files: files!(
            "bare/Cargo.toml.jinja" => "Cargo.toml",
            "bare/README.md.jinja" => "README.md",
            "shared/build.rs" => "build.rs",
            "shared/cargo-config.toml.jinja" => ".cargo/config.toml",
            "shared/gitignore" => ".gitignore",
            "bare/src/main.rs" => "src/main.rs",
        ),
    },
    Template {
        name: "linear",
        about: "linear regression with the complete training loop: start reading here",
        files: files!(
            "linear/Cargo.toml.jinja" => "Cargo.toml",
            "linear/README.md.jinja" => "README.md",
            "shared/build.rs" => "build.rs",
            "shared/cargo-config.toml.jinja" => ".cargo/config.toml",
            "shared/gitignore" => ".gitignore",
            "linear/src/main.rs" => "src/main.rs",
        ),
    },
    Template {
        name: "vision",
        about: "a convolutional network for handwritten digits (included; or MNIST), with the Trainer",
        files: files!(
            "vision/Cargo.toml.jinja" => "Cargo.toml",
            "vision/README.md.jinja" => "README.md",
            "shared/build.rs" => "build.rs",
            "shared/cargo-config.toml.jinja" => ".cargo/config.toml",
            "shared/gitignore" => ".gitignore",
            "vision/data/LICENSE" => "data/LICENSE",
            "vision/data/README.md" => "data/README.md",
            "vision/data/t10k-images-idx3-ubyte" => "data/t10k-images-idx3-ubyte",
            "vision/data/t10k-labels-idx1-ubyte" => "data/t10k-labels-idx1-ubyte",
            "vision/data/train-images-idx3-ubyte" => "data/train-images-idx3-ubyte",
            "vision/data/train-labels-idx1-ubyte" => "data/train-labels-idx1-ubyte",
            "vision/src/images.rs" => "src/images.rs",
            "vision/src/main.rs" => "src/main.rs",
            "vision/src/model.rs" => "src/model.rs",
        ),
    },
    Template {
        name: "mingpt",
        about: "a small character-level GPT with sampling, like PyTorch's minGPT-DDP tutorial",
        files: files!(
            "mingpt/Cargo.toml.jinja" => "Cargo.toml",
            "mingpt/README.md.jinja" => "README.md",
            "shared/build.rs" => "build.rs",
            "shared/cargo-config.toml.jinja" => ".cargo/config.toml",
            "shared/gitignore" => ".gitignore",
            "mingpt/data/README.md" => "data/README.md",
            "mingpt/data/text.txt" => "data/text.txt",
            "mingpt/src/bin/sample.rs" => "src/bin/sample.rs",
            "mingpt/src/lib.rs" => "src/lib.rs",
            "mingpt/src/main.rs" => "src/main.rs",
            "mingpt/src/model.rs" => "src/model.rs",
            "mingpt/src/text.rs" => "src/text.rs",
        ),
    },
];

impl Template {
    /// The packages that its Cargo.toml depends on, also for its build script.
    pub(super) fn dependencies(&self) -> impl Iterator<Item = &'static str> {
        let manifest = self.files.iter().find(|file| file.path == "Cargo.toml").map_or(&[][..], |file| file.bytes);
        let mut within = false;
        str::from_utf8(manifest).unwrap_or_default().lines().filter_map(move |line| {
            if line.starts_with('[') {
                within = matches!(line, "[dependencies]" | "[build-dependencies]");
            }
            line.split_once('=').filter(|_| within).map(|(name, _)| name.trim())
        })
    }

    /// Its binaries other than `src/main.rs`.
    pub(super) fn other_binaries(&self) -> impl Iterator<Item = &'static str> {
        self.files.iter().filter_map(|file| file.path.strip_prefix("src/bin/")?.strip_suffix(".rs"))
    }
}

pub(super) fn find(name: &str) -> Result<&'static Template> {
    TEMPLATES.iter().find(|template| template.name == name).ok_or_else(|| {
        let known: Vec<_> = TEMPLATES.iter().map(|template| template.name).collect();
        Error::NoTemplate { name: name.to_owned(), known: known.join(", ") }
    })
}

impl File {
    /// The file with `values` filled in. A value that is missing is an error.
    pub(super) fn render(&self, values: &Value) -> Result<Vec<u8>> {
        if !self.source.ends_with(".jinja") {
            return Ok(self.bytes.to_owned());
        }
        let problem = |problem: String| Error::Template { template: self.source.into(), problem };
        let text = str::from_utf8(self.bytes).map_err(|err| problem(err.to_string()))?;
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Rendering drops the last line's end.
        let rendered = environment.render_str(text, values).map_err(|err| problem(err.to_string()))?;
        Ok((rendered + "\n").into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_value_that_is_missing_is_an_error() {
        let file = &TEMPLATES[0].files[0];
        let err = file.render(&minijinja::context! { name => "m", standalone => false }).unwrap_err();
        assert!(matches!(&err, Error::Template { template, .. } if template == "bare/Cargo.toml.jinja"), "{err}");
    }
}
