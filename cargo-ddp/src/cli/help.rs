//! The help of every command, as text snapshots.

use clap::{Command, CommandFactory};

use super::Cli;
use crate::snap::assert_text;

/// A command and all below it, with names such as `snapshot_ls`.
fn all(command: Command, name: String) -> Vec<(String, Command)> {
    let below = command.get_subcommands().filter(|below| below.get_name() != "help");
    let below: Vec<_> = below.flat_map(|below| all(below.clone(), format!("{name}_{}", below.get_name()))).collect();
    [vec![(name, command)], below].concat()
}

#[test]
fn help_of_every_command_matches_its_snapshot() {
    let mut root = Cli::command().term_width(100);
    // Gives each command its complete name and the global options.
    root.build();
    let commands = all(root, "help".into());
    assert!(commands.len() > 20, "{}", commands.len());
    for (name, command) in commands {
        let help = command.term_width(100).render_long_help().to_string();
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        assert_text!(name, lines.join("\n"));
    }
}
