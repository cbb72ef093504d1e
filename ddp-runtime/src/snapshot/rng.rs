//! libtorch's random number generators.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use super::tensors::HostTensor;
use crate::error::check;
use crate::sys::convert::to_i32;
use crate::{Result, sys};

/// The default generators of a rank, as libtorch gives their states.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RngState {
    cpu: Vec<u8>,
    cuda: Option<Vec<u8>>,
}

impl RngState {
    /// This process' states: the CPU's, and the GPU's if it trains on one.
    pub(super) fn now(device: Device) -> Result<Self> {
        let cuda = match device {
            Device::Cuda(index) => Some(state_of(to_i32(index))?),
            _ => None,
        };
        Ok(Self { cpu: state_of(CPU)?, cuda })
    }
}

const CPU: i32 = -1;

/// The names of a rank's states in the file.
fn names(rank: usize) -> [String; 2] {
    [format!("rank{rank}.cpu"), format!("rank{rank}.cuda")]
}

pub(super) fn to_tensors(ranks: &[RngState]) -> Result<Vec<HostTensor>> {
    let mut tensors = Vec::new();
    for (rank, state) in ranks.iter().enumerate() {
        let [cpu, cuda] = names(rank);
        tensors.push(HostTensor::new(cpu, Tensor::from_slice(&state.cpu))?);
        if let Some(state) = &state.cuda {
            tensors.push(HostTensor::new(cuda, Tensor::from_slice(state))?);
        }
    }
    Ok(tensors)
}

/// Restores the generators of `rank`. One that the snapshot does not have (of a rank or a GPU that the run did not have) is
/// seeded, the same way each time.
pub(super) fn restore(
    tensors: &std::collections::HashMap<String, Tensor>,
    rank: usize,
    device: Device,
    step: u64,
) -> Result<()> {
    let [cpu, cuda] = names(rank).map(|name| tensors.get(&name));
    let is_on_gpu = matches!(device, Device::Cuda(_));
    if cpu.is_none() || is_on_gpu && cuda.is_none() {
        // This seeds all generators; those that the snapshot has are set below.
        tch::manual_seed((step.wrapping_shl(20) ^ rank as u64) as i64);
    }
    if let Some(state) = cpu {
        set(CPU, state)?;
    }
    match (device, cuda) {
        (Device::Cuda(index), Some(state)) => set(to_i32(index), state),
        _ => Ok(()),
    }
}

fn state_of(cuda_device: i32) -> Result<Vec<u8>> {
    let mut raw = std::ptr::null_mut();
    // SAFETY: `raw` is written on success only.
    check("reading a random number generator", |error| unsafe { sys::ddp_rng_state(cuda_device, &mut raw, error) })?;
    // SAFETY: the call made this tensor for its caller, and nobody else has it.
    let state = unsafe { Tensor::from_ptr(raw) };
    let mut bytes = vec![0; state.numel()];
    state.copy_data_u8(&mut bytes, state.numel());
    Ok(bytes)
}

fn set(cuda_device: i32, state: &Tensor) -> Result<()> {
    // A copy: libtorch wants memory of the tensor's own.
    let state = state.copy();
    // SAFETY: `state` is a live tensor, whose form libtorch checks.
    check("setting a random number generator", |error| unsafe {
        sys::ddp_set_rng_state(cuda_device, state.as_ptr(), error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    // Complete runs test that numbers continue as they would have: other tests draw from this process' generators.

    #[test]
    fn rng_state_that_is_invalid_is_refused() {
        let broken = HashMap::from([("rank0.cpu".to_owned(), Tensor::from_slice(&[1u8, 2]))]);
        assert!(restore(&broken, 0, Device::Cpu, 3).is_err());
    }

    #[test]
    fn rng_states_have_one_name_per_rank() {
        let state = |n| RngState { cpu: vec![n], cuda: Some(vec![n, n]) };
        let tensors = to_tensors(&[state(1), state(2)]).unwrap();
        let found: Vec<_> =
            tensors.into_iter().map(|t| (t.name().to_owned(), Vec::<u8>::try_from(t.into_tensor()).unwrap())).collect();
        let expected =
            [("rank0.cpu", vec![1]), ("rank0.cuda", vec![1, 1]), ("rank1.cpu", vec![2]), ("rank1.cuda", vec![2, 2])];
        assert_eq!(found, expected.map(|(name, bytes)| (name.to_owned(), bytes)));
    }
}
