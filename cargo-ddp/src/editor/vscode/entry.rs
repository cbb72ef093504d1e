//! The names of what is generated. A name says what an entry is for, and is how it is found again.

/// How an entry's name begins.
const PREFIX: &str = "ddp: ";
const RELEASE: &str = " (release)";
/// The id of the input that asks for a step.
pub(super) const STEP_INPUT: &str = "ddpStep";

/// What an entry is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The launcher, with a child session for each rank.
    Run,
    /// The launcher, with a child session for each rank, that goes to a step of an earlier run.
    Step,
    /// The launcher as a member of the compound.
    Launcher,
    /// A rank as a member of the compound.
    Rank(usize),
    /// Launcher and ranks together.
    Compound,
    /// A world of one.
    Alone,
    /// Sessions for the ranks of a job that runs.
    Attach,
    /// The task that asks which job.
    Choose,
    /// The task that builds.
    Build,
    /// The input that asks for a step.
    StepInput,
    /// An entry of `cargo ddp new` from before `cargo ddp vscode` existed.
    Former,
}

impl Role {
    /// Whether the entry is left out of the list that F5 offers: the compound starts it.
    pub(super) fn is_hidden(&self) -> bool {
        matches!(self, Self::Launcher | Self::Rank(_))
    }
}

/// An entry, recognized by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) role: Role,
    /// The binary's or the example's name; empty where there is none.
    pub(super) target: String,
    pub(super) release: bool,
    /// The number of ranks, where the name has it.
    pub(super) ranks: Option<usize>,
}

impl Entry {
    pub(super) fn new(role: Role, target: &str, release: bool) -> Self {
        Self { role, target: target.to_owned(), release, ranks: None }
    }

    /// `None` for a name that is not ours, even if it begins like one.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let name = name.strip_prefix(PREFIX)?;
        let (name, release) = name.strip_suffix(RELEASE).map_or((name, false), |name| (name, true));
        let entry = |role, target: &str, ranks| Some(Self { role, target: target.to_owned(), release, ranks });
        if name == "attach to a running job" {
            return entry(Role::Attach, "", None);
        }
        if name == "choose a running job" {
            return entry(Role::Choose, "", None);
        }
        if let Some(target) = name.strip_prefix("go to a step of ") {
            return entry(Role::Step, target, None);
        }
        if let Some(target) = name.strip_prefix("build ") {
            return entry(Role::Build, target, None);
        }
        if let Some((target, count)) = name.strip_prefix("run ").and_then(|rest| rest.rsplit_once(" on ")) {
            return entry(Role::Run, target, Some(counted(count, "rank")?));
        }
        let (target, what) = name.rsplit_once(", ")?;
        match what {
            "one process" => entry(Role::Alone, target, None),
            "launcher" => entry(Role::Launcher, target, None),
            _ => {
                if let Some(count) = what.strip_prefix("launcher + ") {
                    return entry(Role::Compound, target, Some(counted(count, "worker")?));
                }
                if let Some((rank, ranks)) = what.strip_prefix("rank ").and_then(|rest| rest.split_once(" of ")) {
                    return entry(Role::Rank(rank.parse().ok()?), target, Some(ranks.parse().ok()?));
                }
                let former = what.strip_prefix("rank ").is_some_and(|rank| rank.parse::<usize>().is_ok());
                (former || counted(what, "rank").is_some()).then(|| entry(Role::Former, target, None))?
            }
        }
    }

    /// An input, recognized by its id.
    pub(super) fn parse_input(id: &str) -> Option<Self> {
        (id == STEP_INPUT).then(|| Self::new(Role::StepInput, "", false))
    }

    /// Its name, in a job of this many ranks.
    pub(super) fn name(&self, ranks: usize) -> String {
        let target = &self.target;
        let s = if ranks == 1 { "" } else { "s" };
        let name = match self.role {
            Role::Run => format!("run {target} on {ranks} rank{s}"),
            Role::Step => format!("go to a step of {target}"),
            Role::Launcher => format!("{target}, launcher"),
            Role::Rank(rank) => format!("{target}, rank {rank} of {ranks}"),
            Role::Compound => format!("{target}, launcher + {ranks} worker{s}"),
            Role::Alone => format!("{target}, one process"),
            Role::Attach => "attach to a running job".into(),
            Role::Choose => "choose a running job".into(),
            Role::Build => format!("build {target}"),
            Role::Former => format!("{target}, {ranks} rank{s}"),
            Role::StepInput => return STEP_INPUT.into(),
        };
        format!("{PREFIX}{name}{}", if self.release { RELEASE } else { "" })
    }

    /// Whether both are the same entry, perhaps of a job with another number of ranks.
    pub(super) fn is(&self, other: &Self) -> bool {
        (&self.role, &self.target, self.release) == (&other.role, &other.target, other.release)
    }
}

/// `2 ranks`, `1 worker`.
fn counted(text: &str, what: &str) -> Option<usize> {
    let (number, word) = text.split_once(' ')?;
    (word.strip_suffix('s').unwrap_or(word) == what).then(|| number.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_names_are_parsed_back_to_their_roles() {
        let roles = [
            Role::Run,
            Role::Step,
            Role::Launcher,
            Role::Rank(1),
            Role::Compound,
            Role::Alone,
            Role::Attach,
            Role::Choose,
            Role::Build,
            Role::Former,
        ];
        for role in roles {
            for (target, release, ranks) in [("m", false, 2), ("my-model_2, odd on it", true, 1)] {
                let target = if [Role::Attach, Role::Choose].contains(&role) { "" } else { target };
                let entry = Entry::new(role.clone(), target, release);
                let found = Entry::parse(&entry.name(ranks)).unwrap();
                assert!(found.is(&entry), "{entry:?}: {found:?}");
                assert!(found.ranks.is_none_or(|found| found == ranks), "{found:?}");
            }
        }
    }

    #[test]
    fn entries_of_compounds_are_hidden_and_no_others() {
        assert!(Role::Launcher.is_hidden() && Role::Rank(0).is_hidden());
        for role in [Role::Run, Role::Step, Role::Compound, Role::Alone, Role::Attach, Role::Build] {
            assert!(!role.is_hidden(), "{role:?}");
        }
    }

    #[test]
    fn entries_with_other_names_belong_to_the_user() {
        let names = [
            "ddp: the launcher, on the demo project",
            "ddp: my own",
            "ddp: run m",
            "ddp: go to step 7 of m",
            "ddpStep",
            "ddp: run m on four ranks",
            "ddp: m, rank one of 2",
            "ddp: m, 3 workers",
            "m, one process",
            "ddp:m, one process",
            "DDP: m, one process",
            "",
        ];
        for name in names {
            assert_eq!(Entry::parse(name), None, "{name}");
        }
    }
}
