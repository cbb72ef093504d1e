//! `chaos --minutes M --seed N`: trains repeatedly, with a different fault in each run, until the time is over.
//!
//! Every round runs the worker `resume` (dropout, AdamW, a scheduler, a gradient scaler, a loader with threads) on 2 to 4
//! ranks, with a snapshot every three steps, and lets it finish, however often that takes. Then it checks that
//!
//! - every step of every rank has the same samples and the same loss as in an undisturbed run, and the last snapshot the
//!   same weights, optimizer state and random numbers, bit for bit;
//! - the report names the rank and the signal that were the cause;
//! - no process is left.
//!
//! Round K of seed N is always the same: `chaos --seed N --first K --rounds 1` repeats it (the kernel's timing aside).

#![allow(clippy::unwrap_used, missing_docs, reason = "a failed check is a panic, which fails the round")]

mod faults;
mod reference;
mod round;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;

use faults::{FAULTS, Fault, Outcome};
use reference::References;
use round::{Random, Round};

/// Train under random faults, and check after each that nothing was lost
#[derive(Parser)]
struct Args {
    /// How long to run
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Seed of the random numbers [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Maximum number of rounds, even if time is left
    #[arg(long)]
    rounds: Option<u64>,
    /// Number of the first round
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Inject only this fault
    #[arg(long, value_parser = FAULTS.map(|fault| fault.name))]
    only: Option<String>,
}

#[derive(Default)]
struct Row {
    rounds: u64,
    failed: u64,
    skipped: u64,
    seconds: Vec<f64>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let clock = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let seed = args.seed.unwrap_or_else(clock);
    let faults: Vec<&Fault> =
        FAULTS.iter().filter(|fault| args.only.as_deref().is_none_or(|only| only == fault.name)).collect();
    println!("seed {seed}");
    let (start, limit) = (Instant::now(), Duration::from_secs_f64(args.minutes * 60.0));
    let mut references = References::default();
    let mut table: BTreeMap<&str, Row> = BTreeMap::new();
    let mut round = args.first;
    while start.elapsed() < limit && args.rounds.is_none_or(|rounds| round - args.first < rounds) {
        let fault = faults[usize::try_from(round).unwrap() % faults.len()];
        let row = table.entry(fault.name).or_default();
        let begin = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, round, fault, &mut references)));
        let seconds = begin.elapsed().as_secs_f64();
        row.rounds += 1;
        row.seconds.push(seconds);
        let word = match outcome {
            Ok(Outcome::Disturbed) => "ok",
            Ok(Outcome::Skipped(why)) => {
                println!("SKIPPED: {}: {why}", fault.name);
                row.skipped += 1;
                "skipped"
            }
            Err(_) => {
                row.failed += 1;
                println!("round {round} failed; repeat it with --seed {seed} --first {round} --rounds 1");
                "FAILED"
            }
        };
        println!(
            "{:6.0} s  round {round:4}  {word:7} {:4.1} s  {}",
            start.elapsed().as_secs_f64(),
            seconds,
            fault.name
        );
        round += 1;
    }
    print_table(&mut table);
    let failed: u64 = table.values().map(|row| row.failed).sum();
    ExitCode::from(u8::from(failed > 0))
}

fn run(seed: u64, number: u64, fault: &Fault, references: &mut References) -> Outcome {
    let mut random = Random::new(seed, number);
    let nproc = 2 + usize::try_from(random.below(3)).unwrap();
    let reference = references.for_ranks(nproc);
    let mut round = Round::new(nproc, random, reference);
    let outcome = catch_unwind(AssertUnwindSafe(|| (fault.run)(&mut round)));
    match outcome {
        Ok(outcome) => outcome,
        Err(cause) => {
            println!("with {nproc} ranks; what is left of the run: {}", round.keep().display());
            std::panic::resume_unwind(cause)
        }
    }
}

fn print_table(table: &mut BTreeMap<&str, Row>) {
    println!("\n| fault | rounds | failed | skipped | median seconds |\n|---|---|---|---|---|");
    let mut sum = Row::default();
    for (name, row) in table {
        row.seconds.sort_by(f64::total_cmp);
        let median = row.seconds[row.seconds.len() / 2];
        println!("| {name} | {} | {} | {} | {median:.1} |", row.rounds, row.failed, row.skipped);
        sum.rounds += row.rounds;
        sum.failed += row.failed;
        sum.skipped += row.skipped;
    }
    println!("| all | {} | {} | {} | |", sum.rounds, sum.failed, sum.skipped);
}
