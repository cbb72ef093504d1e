//! How many workers there are, and what each of them runs on.

use super::binding::{Binding, bind};
use super::{Note, Nproc};
use crate::machine::Machine;
use crate::machine::gpus::{self, Gpu};
use crate::{Error, Result};

/// What the workers of this node run on.
pub(super) struct Placement {
    /// One for each worker; `None`: the CPU.
    pub(super) gpus: Option<Vec<String>>,
    /// For each worker its GPU's NUMA node, if that is known.
    numa_nodes: Vec<Option<u32>>,
}

impl Placement {
    /// Chooses GPUs: those of the list, or the first `nproc` of those that are visible, or all that are visible.
    pub(super) fn choose(
        list: Option<&str>,
        nproc: Option<Nproc>,
        machine: &Machine,
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let visible = machine.environment.text(ddp_contract::env::CUDA_VISIBLE_DEVICES);
        let bad = |problem: String| Error::BadOption { option: "nproc", problem };
        let on_cpu = |nproc| Ok(Self { gpus: None, numa_nodes: vec![None; nproc] });
        if nproc == Some(Nproc::Count(0)) {
            return Err(bad("expected at least 1 worker".into()));
        }
        // Without a driver, only those who ask for GPUs need to know.
        let there: &[Gpu] = match &machine.gpus {
            Ok(gpus) => gpus,
            Err(problem) if list.is_some() => return Err(Error::NoDriver(problem.clone())),
            Err(_) => &[],
        };
        let chosen = match (list, nproc) {
            (Some(list), _) => gpus::select(list, there, visible)?,
            (None, nproc) => {
                let all = gpus::available(there, visible);
                match nproc {
                    Some(Nproc::Gpu) if all.is_empty() => {
                        return Err(bad("`gpu` starts one worker per GPU, but this machine has no GPU".into()));
                    }
                    Some(Nproc::Auto) if all.is_empty() => return on_cpu(machine.cores),
                    // An empty list hides the GPUs from the workers.
                    Some(Nproc::Cpu) => {
                        let gpus = (!all.is_empty()).then(Vec::new);
                        return Ok(Self { gpus, numa_nodes: vec![None; machine.cores] });
                    }
                    Some(Nproc::Gpu | Nproc::Auto) => all,
                    Some(Nproc::Count(nproc)) if all.is_empty() => return on_cpu(nproc.into()),
                    Some(Nproc::Count(nproc)) if usize::from(nproc) <= all.len() => all[..nproc.into()].to_vec(),
                    Some(Nproc::Count(nproc)) => {
                        return Err(bad(format!(
                            "{nproc} workers need {nproc} GPUs, but only {} are available",
                            all.len()
                        )));
                    }
                    None if all.is_empty() => {
                        notes.push(Note::NoGpu);
                        return on_cpu(1);
                    }
                    None => all,
                }
            }
        };
        let is_it = |gpu: &&Gpu, name: &String| {
            gpu.index.to_string() == *name || gpu.uuid.as_ref() == Some(name) || gpu.mig.contains(name)
        };
        let described = |name: &String| there.iter().find(|gpu| is_it(gpu, name));
        for name in &chosen {
            if let Some(busy) = described(name).and_then(Gpu::busy) {
                notes.push(Note::BusyGpu { gpu: name.clone(), busy });
            }
        }
        let numa_nodes = chosen.iter().map(|name| described(name)?.numa_node).collect();
        Ok(Self { gpus: Some(chosen), numa_nodes })
    }

    pub(super) fn nproc(&self) -> usize {
        self.numa_nodes.len()
    }

    /// The cores of each worker.
    pub(super) fn bindings(&self, machine: &Machine) -> Result<Vec<Binding>> {
        let unknown = || std::io::Error::other("the kernel does not list them");
        let cpus = machine.cpus.as_deref().filter(|cpus| !cpus.is_empty());
        let cpus = cpus.ok_or_else(|| Error::system("can't find the cores of this process")(unknown()))?;
        Ok(bind(&self.numa_nodes, cpus, |node| machine.numa_nodes.get(&node).cloned().unwrap_or_default()))
    }
}
