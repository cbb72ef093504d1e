//! `cargo ddp completions`: completion scripts for shells, for `cargo-ddp` and for `cargo ddp`.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use crate::cli::{Cli, Completions};
use crate::ui::stdout;
use crate::{Result, exit};

/// `cargo ddp` in bash: cargo's own completion, where there is one, is asked for everything else.
const BASH_FOR_CARGO: &str = r#"
__cargo_ddp_before=$(complete -p cargo 2>/dev/null | sed -n 's/.* -F \([^ ]*\) .*/\1/p')
_cargo_ddp_of_cargo() {
    if [[ ${COMP_WORDS[1]} == ddp && $COMP_CWORD -gt 1 ]]; then
        COMP_WORDS=(cargo-ddp "${COMP_WORDS[@]:2}")
        COMP_CWORD=$((COMP_CWORD - 1))
        _cargo_ddp cargo-ddp "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
    elif [[ -n $__cargo_ddp_before && $__cargo_ddp_before != _cargo_ddp_of_cargo ]]; then
        "$__cargo_ddp_before" "$@"
    elif [[ $COMP_CWORD -eq 1 ]]; then
        COMPREPLY=($(compgen -W "$(cargo --list 2>/dev/null | sed -n 's/^    \([^ ]*\).*/\1/p')" -- "$2"))
    fi
}
complete -o bashdefault -o default -F _cargo_ddp_of_cargo cargo
"#;

/// `cargo ddp` in fish: the words after it are completed as those of `cargo-ddp`.
const FISH_FOR_CARGO: &str = r#"
function __cargo_ddp_of_cargo
    complete -C (string replace -r '^\s*cargo\s+ddp' cargo-ddp -- (commandline -cp | string collect))
end
complete -c cargo -n '__fish_seen_subcommand_from ddp' -f -a '(__cargo_ddp_of_cargo)'
"#;

/// `cargo ddp completions SHELL`
pub(super) fn completions(args: &Completions) -> Result<u8> {
    // clap's script for bash fails for a command whose name has a hyphen (clap_complete 4.6): generate it for another name,
    // and register it for the right one.
    let name = if args.shell == Shell::Bash { "cargo_ddp" } else { "cargo-ddp" };
    let mut script = Vec::new();
    generate(args.shell, &mut Cli::command().name(name), name, &mut script);
    let mut script = String::from_utf8_lossy(&script).into_owned();
    match args.shell {
        Shell::Bash => script = script.replace("default cargo_ddp\n", "default cargo-ddp\n") + BASH_FOR_CARGO,
        Shell::Fish => script += FISH_FOR_CARGO,
        _ => {}
    }
    stdout::write(script.as_bytes());
    Ok(exit::SUCCESS)
}
