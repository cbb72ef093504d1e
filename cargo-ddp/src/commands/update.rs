//! `cargo ddp update`: shows and applies the changes of a newer template to a project.

use std::io::{IsTerminal, Write, stderr, stdin};

use crate::scaffold;
use crate::ui::stdout::shown;
use crate::{Error, Result, Ui, cli, exit};

/// `cargo ddp update`: the diff on stdout, all else on stderr.
pub(super) fn update(args: &cli::Update, ui: &Ui) -> Result<u8> {
    let update = scaffold::Update::find(&args.path)?;
    let colored = ui.is_stdout_colored();
    for change in &update.changes {
        let diff = change.diff();
        let diff = shown(&diff);
        print!("{}", if colored { paint(&diff) } else { diff.into_owned() });
    }
    for path in &update.kept {
        ui.status("Kept", format!("{path}: changed by you and by the template"));
    }
    let (from, to) = (&update.from, env!("CARGO_PKG_VERSION"));
    if update.changes.is_empty() {
        ui.status("Unchanged", format!("the project is up to date with version {to}"));
        if !args.check {
            update.apply()?;
        }
        return Ok(exit::SUCCESS);
    }
    if args.check {
        ui.status("Found", format!("{} files that change from version {from} to {to}", update.changes.len()));
        return Ok(exit::STALE);
    }
    if !args.yes && !agreed()? {
        ui.status("Unchanged", "nothing was written");
        return Ok(exit::SUCCESS);
    }
    update.apply()?;
    super::libtorch::relink(&args.path)?;
    ui.status("Updated", format!("{} files from version {from} to {to}", update.changes.len()));
    Ok(exit::SUCCESS)
}

fn agreed() -> Result<bool> {
    if !stdin().is_terminal() {
        return Err(Error::Unconfirmed);
    }
    let _ = write!(stderr(), "Apply these changes? [y/N] ");
    let mut answer = String::new();
    stdin().read_line(&mut answer).map_err(Error::system("can't read the answer"))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn paint(diff: &str) -> String {
    let line = |line: &str| match line.chars().next() {
        Some('+') => format!("\x1b[32m{line}\x1b[0m\n"),
        Some('-') => format!("\x1b[31m{line}\x1b[0m\n"),
        Some('@') => format!("\x1b[36m{line}\x1b[0m\n"),
        _ => format!("{line}\n"),
    };
    diff.lines().map(line).collect()
}
