//! `cargo ddp gpus`: the table of GPUs and of the processes that use them.

use ddp_contract::text::printable_line;

use super::table::print_json;
use crate::cli::GpusArgs;
use crate::machine::gpus::{self as gpu, Gpu, gigabytes};
use crate::{Result, exit};

/// `cargo ddp gpus`
pub(super) fn gpus(args: &GpusArgs) -> Result<u8> {
    let gpus = gpu::list()?;
    if args.json {
        print_json(&serde_json::json!({ "version": 1, "gpus": &gpus }))?;
        return Ok(exit::SUCCESS);
    }
    if gpus.is_empty() {
        println!("the NVIDIA driver lists no GPUs");
    }
    let visible = std::env::var(ddp_contract::env::CUDA_VISIBLE_DEVICES).ok();
    let allowed = gpu::available(&gpus, visible.as_deref());
    for gpu in &gpus {
        let unknown = || "?".to_owned();
        let memory = gpu
            .memory
            .map_or_else(unknown, |memory| format!("{} of {} in use", gigabytes(memory.used), gigabytes(memory.total)));
        let node = gpu.numa_node.map_or(String::new(), |node| format!("  NUMA node {node}"));
        let granted = if is_among(gpu, &allowed) { "" } else { "  (not in CUDA_VISIBLE_DEVICES)" };
        // A process, maybe another user's, has chosen its name itself.
        let text =
            |value: &Option<String>| value.as_deref().map_or_else(unknown, |text| printable_line(text).into_owned());
        println!("{:>2}  {}  {}  {memory}{node}{granted}", gpu.index, text(&gpu.name), text(&gpu.uuid));
        for mig in &gpu.mig {
            println!("      {mig}");
        }
        for user in &gpu.users {
            let memory = user.memory.map_or(String::new(), |bytes| format!("  {}", gigabytes(bytes)));
            println!("      used by {} (pid {}){memory}", text(&user.program), user.pid);
        }
    }
    Ok(exit::SUCCESS)
}

fn is_among(gpu: &Gpu, allowed: &[String]) -> bool {
    let names = [Some(gpu.index.to_string()), gpu.uuid.clone()];
    let mut names = names.into_iter().flatten().chain(gpu.mig.iter().cloned());
    names.any(|name| allowed.contains(&name))
}
