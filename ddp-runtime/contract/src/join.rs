//! How a worker that a debugger started meets its launcher, over the socket that [`JOIN`](crate::env::JOIN) names (of the
//! type SOCK_SEQPACKET: each message arrives as it was sent).
//!
//! The worker sends [`Hello`]; the launcher answers with a [`Welcome`], and passes the event pipe and, to rank 0, the
//! store's socket. After that the launcher is silent, and the worker reports how it ends, if it can. That the
//! connection ends means that the launcher is gone: the worker has itself killed for that.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of this exchange.
pub const VERSION: u32 = 1;
/// The largest message.
pub const LARGEST: usize = 1 << 16;

/// The first message of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u32,
    /// The rank that it requests.
    pub rank: usize,
}

/// The launcher's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Welcome {
    /// The worker's environment. The descriptors that come with it are named by [`EVENT_FD`](crate::env::EVENT_FD) and
    /// [`STORE_FD`](crate::env::STORE_FD), which hold their place in the message.
    Environment(BTreeMap<String, String>),
    /// Why it can't be.
    Refused(String),
}

/// How a worker exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Goodbye {
    /// Its exit code.
    pub code: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welcome_and_join_messages_round_trip() {
        let environment = Welcome::Environment([("RANK".to_owned(), "1".to_owned())].into());
        for welcome in [environment, Welcome::Refused("no".into())] {
            let text = serde_json::to_string(&welcome).expect("plain data");
            assert_eq!(serde_json::from_str::<Welcome>(&text).expect("what was written can be read"), welcome);
        }
        let newer = r#"{"version": 2, "rank": 1, "color": "red"}"#;
        assert_eq!(serde_json::from_str::<Hello>(newer).expect("more is no error"), Hello { version: 2, rank: 1 });
    }
}
