//! Prints the indices of samplers: one JSON list per line of JSON settings on stdin.

use std::io::BufRead;

use anyhow::{Context, Result};
use ddp_runtime::DistributedSampler;
use serde_json::Value;

pub(crate) fn main() -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let settings: Value = serde_json::from_str(&line?)?;
        let number = |name: &str| settings[name].as_u64().context(name.to_owned());
        let flag = |name: &str| settings[name].as_bool().context(name.to_owned());
        let sampler =
            DistributedSampler::new(number("len")? as usize, number("replicas")? as usize, number("rank")? as usize)?;
        let mut sampler = sampler.shuffle(flag("shuffle")?).seed(number("seed")?).drop_last(flag("drop_last")?);
        sampler.set_epoch(number("epoch")?);
        println!("{}", serde_json::to_string(&sampler.indices()?)?);
    }
    Ok(())
}
