//! The device that a worker trains on.

use ddp_contract::env;
use tch::{Cuda, Device};

use crate::{Backend, Error, Result, World};

/// The `wanted` device; else this worker's GPU, or the CPU.
pub(crate) fn choose(world: &World, wanted: Option<Device>, backend: Option<Backend>) -> Result<Device> {
    let gpus = if Cuda::is_available() { usize::try_from(Cuda::device_count()).unwrap_or(0) } else { 0 };
    let visible = std::env::var(env::CUDA_VISIBLE_DEVICES).unwrap_or_default();
    match wanted {
        Some(Device::Cuda(index)) if index >= gpus => {
            Err(Error::Invalid(format!("Cuda({index}) not found: this process sees {gpus} GPUs")))
        }
        Some(device @ (Device::Cpu | Device::Cuda(_))) => Ok(device),
        Some(other) => Err(Error::Invalid(format!("can't train on {other:?}: expected the CPU or a CUDA device"))),
        None if backend == Some(Backend::Gloo) => Ok(Device::Cpu),
        None => by_itself(world, gpus, &visible),
    }
}

/// The GPU of this worker, of `gpus` that the process sees.
fn by_itself(world: &World, gpus: usize, visible: &str) -> Result<Device> {
    match gpus {
        0 if names_gpus(visible) => Err(Error::NoCuda { visible: visible.to_owned(), is_built: cfg!(ddp_cuda) }),
        0 => Ok(Device::Cpu),
        // Each worker has been given its own: one MIG instance, or by Slurm's --gpus-per-task and Kubernetes. (If they share
        // it after all, NCCL reports that.)
        1 => Ok(Device::Cuda(0)),
        _ if world.local_rank < gpus => Ok(Device::Cuda(world.local_rank)),
        _ => Err(Error::BadVariable {
            name: env::LOCAL_RANK,
            value: world.local_rank.to_string(),
            problem: format!("this process sees {gpus} GPUs; start at most one worker per GPU"),
        }),
    }
}

/// Whether CUDA_VISIBLE_DEVICES names a GPU. CUDA ignores what follows the first invalid entry.
fn names_gpus(visible: &str) -> bool {
    let first = visible.split(',').next().unwrap_or_default().trim();
    first.parse::<u32>().is_ok() || ["GPU-", "MIG-"].iter().any(|prefix| first.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_rank(local_rank: usize) -> World {
        World { local_rank, ..World::alone() }
    }

    #[test]
    fn device_is_the_gpu_of_the_local_rank_or_the_only_one() {
        let choose = |local_rank, gpus| by_itself(&of_rank(local_rank), gpus, "");
        assert_eq!(choose(0, 4).unwrap(), Device::Cuda(0));
        assert_eq!(choose(3, 4).unwrap(), Device::Cuda(3));
        assert_eq!(choose(3, 1).unwrap(), Device::Cuda(0));
        assert_eq!(choose(3, 0).unwrap(), Device::Cpu);
        let err = choose(2, 2).unwrap_err().to_string();
        assert!(err.contains("invalid LOCAL_RANK `2`: this process sees 2 GPUs"), "{err}");
    }

    #[test]
    fn device_of_a_gpu_job_without_cuda_is_an_error() {
        for visible in ["2,3", "0", " 1", "GPU-8932f937", "MIG-GPU-1/1/0"] {
            let err = by_itself(&of_rank(0), 0, visible).unwrap_err();
            assert!(matches!(&err, Error::NoCuda { visible: named, .. } if named == visible), "{err}");
            assert!(err.hint().is_some());
        }
        for none in ["", "-1", "NoDevFiles", "none", "void", ",0"] {
            assert_eq!(by_itself(&of_rank(0), 0, none).unwrap(), Device::Cpu, "{none:?}");
        }
    }

    #[test]
    fn device_that_does_not_exist_is_refused() {
        let err = |device| choose(&World::alone(), Some(device), None).unwrap_err().to_string();
        let gpus = Cuda::device_count();
        assert_eq!(err(Device::Cuda(99)), format!("Cuda(99) not found: this process sees {gpus} GPUs"));
        assert!(err(Device::Vulkan).starts_with("can't train on Vulkan"));
        assert_eq!(choose(&World::alone(), Some(Device::Cpu), None).unwrap(), Device::Cpu);
    }
}
