//! The limit of open files (`ulimit -n`): the launcher needs six for each worker, and libtorch dozens in every worker.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a worker gets at least, where the hard limit allows it: what most systems set, and what `select` can take.
const FOR_WORKERS: u64 = 1024;

/// Raises this process' limit as far as it goes. Returns the limit for workers, which is the user's own unless it is too low.
pub(crate) fn raise_limit() -> Rlimit {
    static FOUND: OnceLock<Rlimit> = OnceLock::new();
    let found = *FOUND.get_or_init(|| {
        let found = getrlimit(Resource::Nofile);
        // One that can't be raised is met when it is reached.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: found.maximum, maximum: found.maximum });
        found
    });
    for_workers(found)
}

fn for_workers(found: Rlimit) -> Rlimit {
    let enough = found.maximum.map_or(FOR_WORKERS, |maximum| maximum.min(FOR_WORKERS));
    Rlimit { current: found.current.map(|current| current.max(enough)), maximum: found.maximum }
}

/// For an error that the limit caused: its value, and how to raise it.
pub(crate) fn hint() -> String {
    let limit = getrlimit(Resource::Nofile).maximum.map_or("unlimited".into(), |limit| limit.to_string());
    format!(
        "this process may open {limit} files at most: raise the hard limit (`ulimit -Hn`, LimitNOFILE= of a \
         service, `docker run --ulimit nofile=65536`)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_limit_of_open_files_is_raised_for_workers() {
        let workers = |current, maximum| for_workers(Rlimit { current, maximum }).current;
        assert_eq!(workers(Some(32), Some(4096)), Some(1024));
        assert_eq!(workers(Some(32), Some(64)), Some(64));
        assert_eq!(workers(Some(32), None), Some(1024));
        assert_eq!(workers(Some(8192), None), Some(8192));
        assert_eq!(workers(None, None), None);
    }
}
