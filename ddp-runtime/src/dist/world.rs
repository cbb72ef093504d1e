//! `World`: ranks and addresses, read from torchrun's environment variables.

use std::net::Ipv6Addr;
use std::str::FromStr;

use ddp_contract::env;

use crate::{Error, Result};

/// This worker's place in the job, from torchrun's environment variables.
///
/// [`Context::init`](crate::Context::init) reads it; use it alone to look before anything is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct World {
    /// Number of this worker in the job, from 0.
    pub rank: usize,
    /// Number of this worker on its node, from 0.
    pub local_rank: usize,
    /// Number of workers in the job.
    pub world_size: usize,
    /// Number of workers on this node.
    pub local_world_size: usize,
    /// How often the job was restarted before this attempt.
    pub restart_count: u32,
    /// Where the ranks meet; `None` in a world of one that nobody launched.
    pub master: Option<Master>,
}

/// Where the ranks of a job meet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Master {
    /// `MASTER_ADDR`.
    pub addr: String,
    /// `MASTER_PORT`.
    pub port: u16,
    /// torchrun's agent hosts the store, so rank 0 does not.
    pub agent_store: bool,
}

impl World {
    /// A world of one.
    pub fn alone() -> Self {
        Self { rank: 0, local_rank: 0, world_size: 1, local_world_size: 1, restart_count: 0, master: None }
    }

    /// Reads the environment of this process.
    ///
    /// # Errors
    /// [`Error::MissingVariable`] and [`Error::BadVariable`], which name the variable. No variable at all is a world of
    /// one.
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// Reads an environment given as a function from a variable's name to its value.
    ///
    /// ```
    /// use ddp_runtime::World;
    ///
    /// let alone = World::from_lookup(|_name| None)?;
    /// assert_eq!(alone, World::alone());
    /// let err = World::from_lookup(|name| (name == "RANK").then(|| "0".into())).unwrap_err();
    /// println!("{err}: {}", err.hint().unwrap_or_default());
    /// # Ok::<(), ddp_runtime::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`World::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let vars = Variables(lookup);
        const WORLD: [&str; 5] = [env::RANK, env::WORLD_SIZE, env::LOCAL_RANK, env::MASTER_ADDR, env::MASTER_PORT];
        let Some(present) = WORLD.into_iter().find(|name| (vars.0)(name).is_some()) else {
            return Ok(Self::alone());
        };

        let rank = vars.required(env::RANK, present)?;
        let world_size = vars.required(env::WORLD_SIZE, present)?;
        vars.check_rank(env::RANK, rank, env::WORLD_SIZE, world_size)?;
        let local_rank = vars.required(env::LOCAL_RANK, present)?;
        let local_world_size = vars.optional(env::LOCAL_WORLD_SIZE)?.unwrap_or(world_size);
        vars.check_rank(env::LOCAL_RANK, local_rank, env::LOCAL_WORLD_SIZE, local_world_size)?;
        if local_world_size > world_size {
            return Err(vars.bad(env::LOCAL_WORLD_SIZE, format!("expected at most {}={world_size}", env::WORLD_SIZE)));
        }
        let addr: String = vars.required(env::MASTER_ADDR, present)?;
        let bare = addr.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let addr = bare.filter(|address| address.parse::<Ipv6Addr>().is_ok()).map_or(addr.clone(), str::to_owned);
        if addr.is_empty() {
            return Err(vars.bad(env::MASTER_ADDR, "expected a host name or an address"));
        }
        let port: u16 = vars.required(env::MASTER_PORT, present)?;
        if port == 0 {
            return Err(vars.bad(env::MASTER_PORT, "expected a port other than 0"));
        }
        let agent_store = (vars.0)(env::USE_AGENT_STORE).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let restart_count = vars.optional(env::RESTART_COUNT)?.unwrap_or(0);
        let master = Some(Master { addr, port, agent_store });
        Ok(Self { rank, local_rank, world_size, local_world_size, restart_count, master })
    }
}

struct Variables<F>(F);

impl<F: Fn(&str) -> Option<String>> Variables<F> {
    fn required<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str, present: &'static str) -> Result<T> {
        self.optional(name)?.ok_or(Error::MissingVariable { name, present })
    }

    fn optional<T: FromStr<Err: std::fmt::Display>>(&self, name: &'static str) -> Result<Option<T>> {
        let Some(value) = (self.0)(name) else { return Ok(None) };
        value.trim().parse().map(Some).map_err(|err: T::Err| self.bad(name, err.to_string()))
    }

    fn check_rank(&self, name: &'static str, rank: usize, size_name: &str, size: usize) -> Result<()> {
        if rank < size { Ok(()) } else { Err(self.bad(name, format!("expected less than {size_name}={size}"))) }
    }

    fn bad(&self, name: &'static str, problem: impl Into<String>) -> Error {
        Error::BadVariable { name, value: (self.0)(name).unwrap_or_default(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 6] = [
        ("RANK", "1"),
        ("LOCAL_RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_WORLD_SIZE", "2"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "29500"),
    ];

    /// The good environment with `changes` laid over it; an empty value removes the variable.
    fn read(changes: &[(&str, &str)]) -> Result<World> {
        World::from_lookup(|name| {
            let found = changes.iter().chain(&GOOD).find(|(key, _)| *key == name)?;
            (!found.1.is_empty()).then(|| found.1.to_owned())
        })
    }

    #[test]
    fn world_is_read_from_torchruns_environment() {
        let world = read(&[("TORCHELASTIC_RESTART_COUNT", "3"), ("TORCHELASTIC_USE_AGENT_STORE", "True")]).unwrap();
        assert_eq!((world.rank, world.local_rank, world.world_size, world.local_world_size), (1, 1, 2, 2));
        assert_eq!(world.restart_count, 3);
        assert_eq!(world.master, Some(Master { addr: "localhost".into(), port: 29500, agent_store: true }));
    }

    #[test]
    fn ipv6_address_may_be_in_brackets() {
        let addr = |text| read(&[("MASTER_ADDR", text)]).unwrap().master.unwrap().addr;
        assert_eq!([addr("[::1]"), addr("fe80::1"), addr("[host]")], ["::1", "fe80::1", "[host]"]);
    }

    #[test]
    fn world_without_variables_has_one_rank() {
        assert_eq!(World::from_lookup(|_| None).unwrap(), World::alone());
        // What a shell may hold anyway does not make a job.
        assert_eq!(World::from_lookup(|name| (name == "OMP_NUM_THREADS").then(|| "4".into())).unwrap(), World::alone());
    }

    #[test]
    fn world_errors_name_the_variable() {
        for name in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"] {
            match read(&[(name, "")]) {
                Err(Error::MissingVariable { name: missing, .. }) => assert_eq!(missing, name),
                other => panic!("{name} missing gave {other:?}"),
            }
        }
        for (name, value) in [
            ("RANK", "2"),
            ("RANK", "-1"),
            ("RANK", "one"),
            ("WORLD_SIZE", "0x2"),
            ("LOCAL_RANK", "2"),
            ("LOCAL_WORLD_SIZE", "3"),
            ("MASTER_PORT", "0"),
            ("MASTER_PORT", "65536"),
            ("TORCHELASTIC_RESTART_COUNT", "many"),
        ] {
            match read(&[(name, value)]) {
                Err(err @ Error::BadVariable { .. }) => {
                    assert!(err.to_string().starts_with(&format!("invalid {name} `{value}`: ")), "{err}");
                }
                other => panic!("{name}={value} gave {other:?}"),
            }
        }
    }

    #[test]
    fn world_of_size_zero_is_refused() {
        assert!(matches!(read(&[("WORLD_SIZE", "0"), ("RANK", "0")]), Err(Error::BadVariable { name: "RANK", .. })));
    }
}
