//! The values that one source gives to options, and how sources are combined.
//!
//! A value is text, as it would be on the command line, so that every source goes through the flag's own parser.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::{Arg, ArgAction, Args as _, Command, FromArgMatches as _};

use super::options::{LaunchOptions, Seconds};
use crate::launch::plan::Nproc;
use crate::{Error, Result};

/// Where a value comes from, in the order of precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The command line.
    Flag,
    /// An environment variable.
    Variable(String),
    /// A table in Cargo.toml, such as `[package.metadata.ddp]`.
    Manifest(String),
}

impl Source {
    /// The error for a value of `option` from here.
    pub(crate) fn error(&self, option: &str, problem: impl std::fmt::Display) -> Error {
        let place = match self {
            Self::Flag => format!("--{option}"),
            Self::Variable(name) => name.clone(),
            Self::Manifest(table) => format!("Cargo.toml {table}: {option}"),
        };
        Error::BadSetting { place, problem: problem.to_string() }
    }
}

/// Values of options, by the options' names.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    values: BTreeMap<String, (OsString, Source)>,
}

impl Layer {
    /// Sets an option, after the option's parser has taken the value.
    pub(crate) fn set(&mut self, option: &Arg, value: &OsStr, source: Source) -> Result<()> {
        let name = name(option);
        check(option, value).map_err(|problem| source.error(name, problem))?;
        self.values.insert(name.to_owned(), (value.to_owned(), source));
        Ok(())
    }

    /// As [`set`](Self::set), of a value that the parser has taken already.
    pub(super) fn set_checked(&mut self, option: &Arg, value: OsString, source: Source) {
        self.values.insert(name(option).to_owned(), (value, source));
    }

    pub(super) fn remove(&mut self, option: &str) {
        self.values.remove(option);
    }

    /// Where an option's value comes from, if it has one.
    pub(crate) fn source(&self, option: &str) -> Option<&Source> {
        self.values.get(option).map(|(_, source)| source)
    }

    /// Two options of this layer that exclude each other.
    pub(super) fn conflict(&self) -> Option<(&str, &str)> {
        let conflicts = conflicts();
        let both = conflicts.iter().find(|(a, b)| self.values.contains_key(a) && self.values.contains_key(b))?;
        Some((self.values.get_key_value(&both.0)?.0, self.values.get_key_value(&both.1)?.0))
    }

    /// `self`, and what it leaves open from `below`. An option also replaces those that it excludes.
    pub(super) fn over(mut self, below: Self) -> Self {
        let excluded: Vec<String> = conflicts()
            .into_iter()
            .flat_map(|(a, b)| [(a.clone(), b.clone()), (b, a)])
            .filter(|(given, _)| self.values.contains_key(given))
            .map(|(_, excluded)| excluded)
            .collect();
        for (option, value) in below.values {
            if !excluded.contains(&option) {
                self.values.entry(option).or_insert(value);
            }
        }
        self
    }

    /// The options as they are used.
    pub(super) fn options(&self) -> Result<LaunchOptions> {
        let all = options();
        let words = all.iter().filter_map(|option| argument(option, &self.values.get(name(option))?.0));
        let matches = command().try_get_matches_from(words);
        let options = matches.and_then(|matches| LaunchOptions::from_arg_matches(&matches));
        options.map_err(|err| Error::BadSetting { place: "options".into(), problem: reason(&err) })
    }
}

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Boolean,
    Integer,
    /// With or without a fraction.
    Number,
    /// An integer or a word.
    Word,
    String,
}

impl Kind {
    pub(super) fn from_arg(option: &Arg) -> Self {
        if is_switch(option) {
            return Self::Boolean;
        }
        let id = option.get_value_parser().type_id();
        let is = |known: TypeId| id == known;
        if is(TypeId::of::<Seconds>()) {
            Self::Number
        } else if is(TypeId::of::<Nproc>()) {
            Self::Word
        } else if [TypeId::of::<u16>(), TypeId::of::<u32>(), TypeId::of::<usize>()].into_iter().any(is) {
            Self::Integer
        } else {
            Self::String
        }
    }

    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Boolean => "a boolean",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Word => "an integer or a string",
            Self::String => "a string",
        }
    }
}

/// All options.
pub(super) fn options() -> Vec<Arg> {
    command().get_arguments().cloned().collect()
}

/// The option's name: that of its flag without the hyphens.
pub(super) fn name(option: &Arg) -> &str {
    option.get_long().unwrap_or_default()
}

/// A flag without a value.
pub(super) fn is_switch(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::SetTrue)
}

/// Whether the option's value is a path.
pub(super) fn is_path(option: &Arg) -> bool {
    option.get_value_parser().type_id() == TypeId::of::<PathBuf>()
}

fn command() -> Command {
    LaunchOptions::augment_args(Command::new("options").no_binary_name(true).disable_help_flag(true))
}

/// The pairs of options that exclude each other.
fn conflicts() -> Vec<(String, String)> {
    let command = command();
    let pairs = command.get_arguments().flat_map(|option| {
        let others = command.get_arg_conflicts_with(option);
        others.into_iter().map(move |other| (name(option).to_owned(), name(other).to_owned()))
    });
    pairs.collect()
}

/// The option on a command line; nothing, where it is a flag that is off.
fn argument(option: &Arg, value: &OsStr) -> Option<OsString> {
    let flag = format!("--{}", name(option));
    if is_switch(option) {
        return (value == "true").then(|| flag.into());
    }
    let mut word = OsString::from(flag + "=");
    word.push(value);
    Some(word)
}

/// Why the option does not take a value.
fn check(option: &Arg, value: &OsStr) -> Result<(), String> {
    if is_switch(option) {
        return if value == "true" || value == "false" { Ok(()) } else { Err("expected true or false".into()) };
    }
    command().try_get_matches_from(argument(option, value)).map(drop).map_err(|err| {
        let value = value.to_string_lossy();
        if value.is_empty() {
            "expected a value, got an empty one".into()
        } else {
            format!("invalid value `{value}`: {}", reason(&err))
        }
    })
}

/// What the parser says, without clap's frame, which names a flag.
fn reason(err: &clap::Error) -> String {
    err.source().map_or_else(|| err.to_string().trim().to_owned(), ToString::to_string)
}
