//! The launch options on the command line.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::layer::{Layer, Source, is_switch, name, options};
use super::options::LaunchOptions;
use super::variables;

/// How a job is launched, as far as flags say it. Each flag without a value has an opposite (`--quiet`, `--no-quiet`), so that
/// it also wins over Cargo.toml and the environment; of the two, the last one counts.
#[derive(Clone, Debug, Default)]
pub struct LaunchFlags {
    pub(super) layer: Layer,
}

/// The identifier of a flag's opposite.
fn opposite(option: &Arg) -> String {
    format!("no_{}", option.get_id())
}

impl Args for LaunchFlags {
    fn augment_args(command: Command) -> Command {
        let mut command = LaunchOptions::augment_args(command);
        for option in options() {
            let variable = variables::name(&option);
            let help = option.get_help().map(ToString::to_string).unwrap_or_default();
            let help = format!("{help} [env: {variable}]");
            let no = is_switch(&option).then(|| {
                let name = name(&option);
                let no = Arg::new(opposite(&option)).long(format!("no-{name}")).action(ArgAction::SetTrue);
                no.overrides_with(option.get_id()).hide_short_help(true).help(format!(
                    "Turn off --{name}, also if {variable} or Cargo.toml sets it; the last of the two flags wins"
                ))
            });
            command = command.mut_arg(option.get_id(), |arg| {
                let arg = arg.help(help);
                if no.is_some() { arg.overrides_with(opposite(&option)) } else { arg }
            });
            command = command.args(no);
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for LaunchFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut layer = Layer::default();
        let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        for option in options() {
            let id = option.get_id().as_str();
            let value = if is_switch(&option) {
                let off = is_given(&opposite(&option)).then(|| OsString::from("false"));
                is_given(id).then(|| "true".into()).or(off)
            } else {
                let values = matches.get_raw(id).filter(|_| is_given(id));
                values.and_then(Iterator::last).map(ToOwned::to_owned)
            };
            if let Some(value) = value {
                layer.set_checked(&option, value, Source::Flag);
            }
        }
        Ok(Self { layer })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
