//! How many workers there are, and what each of them runs on.

use super::Note;
use super::binding::{Binding, bind};
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
        nproc: Option<usize>,
        machine: &Machine,
        notes: &mut Vec<Note>,
    ) -> Result<Self> {
        let visible = machine.environment.text(ddp_contract::env::CUDA_VISIBLE_DEVICES);
        let on_cpu = |nproc| Ok(Self { gpus: None, numa_nodes: vec![None; nproc] });
        if nproc == Some(0) {
            return Err(Error::BadOption { option: "nproc", problem: "expected at least 1 worker".into() });
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
                    Some(nproc) if all.is_empty() => return on_cpu(nproc),
                    Some(nproc) if nproc <= all.len() => all[..nproc].to_vec(),
                    Some(nproc) => {
                        let problem = format!("{nproc} workers need {nproc} GPUs, and there are {}", all.len());
                        return Err(Error::BadGpuList { list: all.join(","), problem });
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
