//! The workers that tests run: `worker NAME ARGUMENTS`, or a link with the worker's name ([`ddp_tests::worker`]).

mod at_step;
mod batch_norm;
mod collectives;
mod diverge;
mod flat;
mod hooks;
mod join;
mod keeper;
mod loader;
mod metrics;
mod model;
mod models;
mod mortal;
mod parity;
mod power_sgd;
mod reducer;
mod resume;
mod sampler;
mod teardown;
mod toy;
mod trainer;
mod zero;

use std::process::ExitCode;

fn main() -> ExitCode {
    match ddp_tests::worker_name().as_str() {
        "at_step" => at_step::main(),
        "batch_norm" => batch_norm::main(),
        "collectives" => collectives::main(),
        "diverge" => diverge::main(),
        "flat" => flat::main(),
        "hooks" => hooks::main(),
        "join" => join::main(),
        "keeper" => keeper::main(),
        "loader" => loader::main(),
        "metrics" => metrics::main(),
        "model" => model::main(),
        "models" => models::main(),
        "mortal" => mortal::main(),
        "parity" => parity::main(),
        "power_sgd" => power_sgd::main(),
        "reducer" => reducer::main(),
        "resume" => resume::main(),
        "teardown" => teardown::main(),
        "toy" => toy::main(),
        "trainer" => trainer::main(),
        "zero" => zero::main(),
        "sampler" => match sampler::main() {
            Ok(()) => ExitCode::SUCCESS,
            Err(err) => panic!("{err:#}"),
        },
        name => panic!("unknown worker {name:?}"),
    }
}
