//! 500,000 hostile messages: none makes a launcher panic, and none that is out of bounds is accepted.

use std::time::{Duration, Instant};

use serde_json::json;

use super::handshake::{Greeting, Guest, Join, Step, Version};
use super::secret::{Nonce, Secret, Side};
use super::{FromCoordinator, Member, ToCoordinator, bounds};
use crate::fuzz::Random;
use crate::launch::plan::Rules;
use crate::launch::supervise::dispatch::{Dispatcher, Input};

const INPUTS: u32 = 500_000;
const WORLD: usize = 4;

fn seeds() -> Vec<Vec<u8>> {
    let failure = json!({"rank": 1, "pid": 7, "exit": {"Signal": 9}, "step": 3, "message": "it failed", "attempt": 0,
        "stalled": {"secs": 600, "nanos": 5}, "consequences": [[0, {"Code": 1}], [3, {"Signal": 15}]]});
    let values = [
        json!("Alive"),
        json!({"Exited": {"rank": 2, "pid": 7, "exit": {"Code": 1}, "message": "no", "last_lines": ["a", "b"],
            "error_file": "{\"message\": {}}"}}),
        json!({"Exited": {"rank": 3, "pid": 7, "exit": {"Signal": 11}, "message": null, "last_lines": [],
            "error_file": null}}),
        json!({"Event": {"rank": 2, "event": {"event": "step", "epoch": 1, "step": 9, "loss": 0.5, "steps": 10,
            "samples": 4}}}),
        json!({"Event": {"rank": 3, "event": {"event": "snapshot_saved", "snapshot": "s/step-9", "epoch": 1, "step": 9,
            "metric": 1.5, "lower_is_better": true}}}),
        json!({"Event": {"rank": 3, "event": {"event": "resumed", "snapshot": "s/step-9", "epoch": 1, "step": 9}}}),
        json!({"Output": {"rank": 2}}),
        json!({"Signal": 15}),
        json!({"Traced": {"step": 3, "waits": true, "rank": 2, "pid": 7}}),
        json!({"GivesUp": "the disk is full"}),
        json!({"Welcome": {"members": [{"host": "a", "first_rank": 0, "nproc": 2, "gpus": ["0", "1"]},
            {"host": "b", "first_rank": 2, "nproc": 2, "gpus": null}], "run": "run-1-7"}}),
        json!({"Start": {"attempt": 1, "port": 29500}}),
        json!({"Announce": {"after": failure, "attempt": 1, "delay": {"secs": 1, "nanos": 0},
            "newest": {"snapshot": "s/step-9", "step": 9}}}),
        json!({"Trace": {"idle": {"secs": 600, "nanos": 0}, "steps": [1, null, 3, 4]}}),
        json!({"Finish": {"Failed": [failure, {"UsedUp": 3}]}}),
        json!({"Finish": {"Stopped": 15}}),
        json!({"Finish": {"Done": {"restarts": 1}}}),
        json!({"Finish": {"NodeLost": "node 1 was lost"}}),
        json!({"Refused": "no"}),
    ];
    let mut seeds: Vec<Vec<u8>> = values.iter().map(|value| value.to_string().into_bytes()).collect();
    let join = Join { node_rank: 1, nnodes: 2, host: "b".into(), nproc: 2, gpus: Some(vec!["0".into(), "1".into()]) };
    let greetings =
        [Greeting::Hello(Version::own(&Nonce::default())), Greeting::Proof("00".repeat(32)), Greeting::Join(join)];
    seeds.extend(greetings.iter().map(|greeting| serde_json::to_vec(greeting).unwrap()));
    seeds
}

/// What node 0 does with a message of node 1, which has ranks 2 and 3.
fn decide(dispatcher: &mut Dispatcher, message: ToCoordinator, now: Instant) {
    let input = match message {
        ToCoordinator::Exited { rank, pid, exit, message, .. } => {
            Input::Exited { rank, pid, exit, message, stderr: String::new() }
        }
        ToCoordinator::Event { rank, event } => Input::Event { rank, event },
        ToCoordinator::Output { rank } => Input::Output { rank },
        ToCoordinator::Signal(signal) => Input::Signal(signal),
        ToCoordinator::Traced(Some(suspect)) => Input::Traced { rank: suspect.rank, pid: suspect.pid },
        ToCoordinator::GivesUp(why) => Input::NodeLost { ranks: 2..WORLD, why },
        ToCoordinator::Traced(None) | ToCoordinator::Alive => Input::Tick,
    };
    dispatcher.handle(input, now);
}

#[test]
fn hostile_messages_cause_no_panic() {
    let secret = Secret::new("a secret of all nodes").unwrap();
    let (ours, theirs) = (Nonce::default(), [7; 32]);
    let hello = serde_json::to_vec(&Greeting::Hello(Version::own(&theirs))).unwrap();
    let proof = serde_json::to_vec(&Greeting::Proof(secret.proof(Side::Member, &theirs, &ours))).unwrap();
    let own = Member { host: "b".into(), first_rank: 0, nproc: 2, gpus: None };
    let (seeds, mut random) = (seeds(), Random::new(0x9e37_79b9_7f4a_7c15));
    let start = Instant::now();
    let new = || Dispatcher::new(WORLD, Rules::default(), start);
    let chains: [(Option<&Secret>, &[&[u8]]); 4] =
        [(None, &[]), (None, &[&hello]), (Some(&secret), &[&hello]), (Some(&secret), &[&hello, &proof])];
    let (mut dispatcher, mut accepted, mut joined) = (new(), 0, 0);
    for number in 0..INPUTS {
        let seed = random.below(seeds.len());
        let text = random.mutated(&seeds[seed]);
        if let Ok(message) = serde_json::from_slice::<ToCoordinator>(&text)
            && message.check(&(2..WORLD)).is_ok()
        {
            accepted += 1;
            decide(&mut dispatcher, message, start + Duration::from_millis(number.into()));
        }
        match serde_json::from_slice::<FromCoordinator>(&text) {
            Ok(FromCoordinator::Welcome { members, run }) => {
                if bounds::check_welcome(&members, &run, 2, (1, &own)).is_ok() {
                    assert_eq!(members.iter().map(|member| member.nproc).sum::<usize>(), members[0].nproc + 2);
                }
            }
            Ok(order) => drop(order.check(WORLD)),
            Err(_) => {}
        }
        // As the first, the second or the third line of a connection.
        let (secret, before) = chains[random.below(chains.len())];
        let mut guest = Guest::new(ours);
        before.iter().for_each(|line| drop(guest.hear(line, secret, 2)));
        if text.len() <= guest.longest_line()
            && let Step::Join(node, member) = guest.hear(&text, secret, 2)
        {
            assert_eq!(node, 1);
            assert!((1..=4096).contains(&member.nproc) && member.host.len() < 2048);
            assert!(member.gpus.is_none_or(|gpus| gpus.len() == member.nproc));
            assert_eq!(secret.is_some(), before.len() == 2, "only who knows the secret joins");
            joined += 1;
        }
        if number % 1000 == 0 {
            dispatcher = new();
        }
    }
    // The inputs are not all refused by the parser alone.
    assert!(accepted > 1000 && joined > 100, "{accepted} {joined}");
}
