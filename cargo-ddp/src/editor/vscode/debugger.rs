//! The debuggers, and the words of each.

use std::fmt;
use std::str::FromStr;

use super::json::{Json, Style};

/// A debugger of VS Code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Debugger {
    /// CodeLLDB: brings its own LLDB along.
    CodeLldb,
    /// LLVM's own: needs an `lldb-dap` on the machine.
    LldbDap,
    /// Microsoft's C/C++ extension, with gdb. It can't open child sessions.
    CppDbg,
}

impl Debugger {
    /// All there are; the first is the default: it needs nothing but its extension.
    pub const ALL: [Self; 3] = [Self::CodeLldb, Self::LldbDap, Self::CppDbg];

    /// Its name on the command line, and in `DDP_DEBUG`.
    pub fn name(self) -> &'static str {
        match self {
            Self::CodeLldb => "codelldb",
            Self::LldbDap => "lldb-dap",
            Self::CppDbg => "cppdbg",
        }
    }

    /// The `type` of its configurations.
    pub fn kind(self) -> &'static str {
        match self {
            Self::CodeLldb => "lldb",
            Self::LldbDap => "lldb-dap",
            Self::CppDbg => "cppdbg",
        }
    }

    /// Its extension's name.
    pub fn extension(self) -> &'static str {
        match self {
            Self::CodeLldb => "vadimcn.vscode-lldb",
            Self::LldbDap => "llvm-vs-code-extensions.lldb-dap",
            Self::CppDbg => "ms-vscode.cpptools",
        }
    }

    /// Whether it can open a session for each rank that the launcher starts.
    pub fn opens_children(self) -> bool {
        self != Self::CppDbg
    }

    pub(super) fn of_kind(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|debugger| debugger.kind() == kind)
    }

    /// The attribute for a program's environment.
    pub(super) fn env_key(self) -> &'static str {
        if self == Self::CppDbg { "environment" } else { "env" }
    }

    /// An environment as it takes one. lldb-dap 19 drops an object without a word; 22 takes both.
    pub(super) fn env(self, pairs: &[(String, Json)]) -> Json {
        match self {
            Self::CodeLldb => Json::object(pairs.iter().map(|(key, value)| (key.as_str(), given(key, value)))),
            Self::LldbDap => Json::List(pairs.iter().map(|(key, value)| Json::Text(assignment(key, value))).collect()),
            Self::CppDbg => {
                let pair =
                    |(key, value): &(String, Json)| [("name", key.as_str().into()), ("value", given(key, value))];
                Json::List(pairs.iter().map(|one| Json::object(pair(one))).collect())
            }
        }
    }
}

fn inherited() -> Json {
    Json::Other("null".into())
}

/// A variable without a value is one that the debugger passes on.
fn given(key: &str, value: &Json) -> Json {
    if *value == inherited() { Json::Text(format!("${{env:{key}}}")) } else { value.clone() }
}

fn assignment(key: &str, value: &Json) -> String {
    match value {
        Json::Text(value) => format!("{key}={value}"),
        other if *other == inherited() => key.to_owned(),
        other => format!("{key}={}", other.print("", &Style::default())),
    }
}

impl fmt::Display for Debugger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Debugger {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|debugger| debugger.name() == name).ok_or_else(|| format!("expected one of {known}"))
    }
}

/// An environment in any of the forms above.
pub(super) fn env_pairs(value: &Json) -> Vec<(String, Json)> {
    let pair = |item: &Json| match item {
        Json::Text(text) => Some(match text.split_once('=') {
            Some((key, value)) => (key.to_owned(), value.into()),
            None => (text.clone(), inherited()),
        }),
        other => Some((other.get("name")?.text()?.to_owned(), other.get("value")?.clone())),
    };
    match value {
        Json::Object(pairs) => pairs.clone(),
        other => other.list().iter().filter_map(pair).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_survives_the_form_of_each_debugger() {
        let pairs = vec![("A".to_owned(), Json::from("1=2")), ("B".to_owned(), Json::from(""))];
        for debugger in Debugger::ALL {
            assert_eq!(env_pairs(&debugger.env(&pairs)), pairs, "{debugger}");
            assert_eq!(debugger.name().parse(), Ok(debugger));
            assert_eq!(Debugger::of_kind(debugger.kind()), Some(debugger));
        }
        assert!("gdb".parse::<Debugger>().unwrap_err().contains("lldb-dap"));
    }
}
