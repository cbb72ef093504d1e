//! `cargo ddp man`: the manual pages, generated from the flags.

use std::fs;

use clap::CommandFactory;
use clap_mangen::Man as Page;

use crate::cli::{Cli, Man};
use crate::ui::stdout;
use crate::{Error, Result, Ui, exit};

/// `cargo ddp man`: the page, or one for every command in a folder.
pub(super) fn man(args: &Man, ui: &Ui) -> Result<u8> {
    let command = Cli::command().name("cargo-ddp").bin_name("cargo-ddp").display_name("cargo-ddp");
    match &args.dir {
        Some(dir) => {
            let cant = || Error::system(format!("can't write the pages to {}", dir.display()));
            fs::create_dir_all(dir).map_err(cant())?;
            clap_mangen::generate_to(command, dir).map_err(cant())?;
            ui.status("Written", format!("the pages to {}; start with `man cargo-ddp`", dir.display()));
        }
        None => {
            let mut page = Vec::new();
            let cant = || Error::system("can't write the page");
            Page::new(command).render(&mut page).map_err(cant())?;
            stdout::write(&page);
        }
    }
    Ok(exit::SUCCESS)
}
