//! The files that a template makes.

use std::collections::BTreeMap;

use super::source::{self, RuntimeSource};
use super::template::Template;
use crate::Result;
use crate::project::cargo;
use crate::project::libtorch as torch;

/// All files that a template makes and that can be renewed, by their path in the project. (`.vscode/` is kept up to date by
/// `cargo ddp vscode`.)
pub(super) type Generated = BTreeMap<String, Vec<u8>>;

/// What the template makes of a package with this name.
pub(super) fn generate(template: &Template, name: &str, standalone: bool) -> Result<Generated> {
    let source = RuntimeSource::of_this_program();
    let values = minijinja::context! {
        name => name,
        ddp_runtime => source.dependency(source::RUNTIME),
        ddp_runtime_source => source.key(source::RUNTIME),
        ddp_build => source.dependency(source::BUILD),
        alias => source.alias(),
        standalone => standalone,
        torch_version => torch::VERSION,
        libtorch_file => cargo::reads_included_files().then_some(torch::INCLUDED),
        libtorch_link => torch::LINK,
    };
    let mut generated = Generated::new();
    for file in template.files {
        generated.insert(file.path.to_owned(), file.render(&values)?);
    }
    Ok(generated)
}
