//! `cargo ddp env`: prints the variables that `cargo ddp exec` sets.

use std::collections::BTreeMap;

use super::exec::environment;
use super::table::print_json;
use crate::cli::Env;
use crate::ui::stdout;
use crate::{Result, Ui, exit, shell};

/// `cargo ddp env`: what `exec` sets.
pub(super) fn env(args: &Env, ui: &Ui) -> Result<u8> {
    let variables = environment(ui)?.into_iter().map(|(name, value)| (name, value.to_string_lossy().into_owned()));
    if args.json {
        print_json(&BTreeMap::from_iter(variables))?;
    } else {
        for (name, value) in variables {
            println!("export {name}={}", stdout::shown(&shell::quote(&value)));
        }
    }
    Ok(exit::SUCCESS)
}
