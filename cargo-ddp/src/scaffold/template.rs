//! The templates, embedded into this program. `templates/` is a link to the repository's folder of that name, whose
//! files `cargo package` puts into the package.

use minijinja::{Environment, UndefinedBehavior, Value};

use crate::{Error, Result};

/// What `cargo ddp new --template NAME` renders.
#[derive(Debug)]
pub(super) struct Template {
    name: &'static str,
    pub(super) files: &'static [File],
}

/// A file of a template. Names end in `.jinja` where there is something to fill in; the others are taken as they are.
#[derive(Debug)]
pub(super) struct File {
    /// Where it goes, below the project's folder.
    pub(super) path: &'static str,
    source: &'static str,
    text: &'static str,
}

macro_rules! files {
    ($template:literal: $($source:literal => $path:literal),+ $(,)?) => {
        &[$(File {
            path: $path,
            source: concat!($template, "/", $source),
            text: include_str!(concat!("../../templates/", $template, "/", $source)),
        }),+]
    };
}

const TEMPLATES: &[Template] = &[Template {
    name: "linear",
    files: files!("linear":
        "Cargo.toml.jinja" => "Cargo.toml",
        "README.md.jinja" => "README.md",
        "build.rs" => "build.rs",
        "cargo-config.toml.jinja" => ".cargo/config.toml",
        "gitignore" => ".gitignore",
        "src/main.rs" => "src/main.rs",
    ),
}];

pub(super) fn find(name: &str) -> Result<&'static Template> {
    TEMPLATES.iter().find(|template| template.name == name).ok_or_else(|| {
        let known: Vec<_> = TEMPLATES.iter().map(|template| template.name).collect();
        Error::NoTemplate { name: name.to_owned(), known: known.join(", ") }
    })
}

impl File {
    /// The file's text with `values` filled in. A value that is missing is an error.
    pub(super) fn render(&self, values: &Value) -> Result<String> {
        if !self.source.ends_with(".jinja") {
            return Ok(self.text.to_owned());
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let problem =
            |err: minijinja::Error| Error::Template { template: self.source.into(), problem: err.to_string() };
        // Rendering drops the last line's end.
        environment.render_str(self.text, values).map(|text| text + "\n").map_err(problem)
    }
}
