//! `torch/distributed/optim/zero_redundancy_optimizer.py`.

use std::collections::HashMap;

use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use super::{Algorithm, Fused, Optimizer, ParamGroup, Parameters, ScaledStep, Scaling, groups, state};
use crate::dist::collectives::point_to_point::STATE;
use crate::dist::ddp;
use crate::error::check;
use crate::sys::convert::to_i32;
use crate::train::state_dict::StateDict;
use crate::train::stateful::Stateful;
use crate::{Error, ProcessGroup, Result, memory, sys};

/// An optimizer whose state is sharded across the ranks: `ZeroRedundancyOptimizer`
/// (<https://arxiv.org/abs/1910.02054>, stage 1).
///
/// Each parameter belongs to one rank. Only this rank holds its state (for Adam, twice the size of the parameter) and updates
/// it. A step then sends each rank's parameters to the others. With [`Ddp`](crate::Ddp), whose gradients are the same on all ranks, the
/// result is that of [`Fused`] on every rank, bit for bit, at the cost of one more exchange of the parameters per step.
///
/// Parameter groups, schedulers, [`clip_grad_norm`](super::clip_grad_norm) and [`GradScaler`](crate::amp::GradScaler) work as
/// with any optimizer. [`Snapshots`](crate::Snapshots) save the complete state, which [`Fused`] and any number of ranks can load.
/// [`state_dict`](Stateful::state_dict) is this rank's shard;
/// [`consolidated_state_dict`](Optimizer::consolidated_state_dict) is complete on rank 0. A step can't be taken in
/// [`Ddp::join`](crate::Ddp::join), as ranks without batches take none.
///
/// ```
/// use ddp_runtime::optim::{AdamWOptions, Optimizer, ZeroRedundancy};
/// use ddp_runtime::{Context, Ddp};
/// use tch::{Kind, Tensor, nn, nn::Module};
///
/// # fn main() -> ddp_runtime::Result<()> {
/// let context = Context::init()?;
/// let vs = nn::VarStore::new(context.device());
/// let model = nn::linear(vs.root(), 2, 1, Default::default());
/// let ddp = Ddp::new(context.group(), &vs)?;
/// let mut optimizer = ZeroRedundancy::new(context.group(), &vs, AdamWOptions::default())?;
///
/// let x = Tensor::ones([8, 2], (Kind::Float, context.device()));
/// optimizer.zero_grad()?;
/// ddp.backward(&ddp.forward(|| model.forward(&x).square().mean(Kind::Float))?)?;
/// optimizer.step()?; // updates this rank's parameters, then all ranks get all of them
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ZeroRedundancy<A> {
    group: ProcessGroup,
    /// For this rank's parameters.
    local: Fused<A>,
    /// Those of all ranks.
    parameters: Parameters,
    /// The rank that each of them belongs to.
    owners: Vec<usize>,
}

impl<A: Algorithm> ZeroRedundancy<A> {
    /// An optimizer for the trainable variables of `vs`, all with the same settings. `group` is that of the
    /// [`Ddp`](crate::Ddp). Every rank must call it.
    ///
    /// # Errors
    /// As [`ZeroRedundancy::with_groups`].
    pub fn new(group: &ProcessGroup, vs: &VarStore, options: A) -> Result<Self> {
        Self::with_groups(group, vs, [ParamGroup::rest(options)])
    }

    /// An optimizer whose parameters have settings by group, as [`Fused::with_groups`]. Every rank must call it, with the
    /// same groups.
    ///
    /// # Errors
    /// On every rank: those of [`Fused::with_groups`]; [`Error::CallsDiffer`] when the ranks have other parameters or groups.
    pub fn with_groups(
        group: &ProcessGroup,
        vs: &VarStore,
        groups: impl IntoIterator<Item = ParamGroup<A>>,
    ) -> Result<Self> {
        let (rank, ranks) = (group.rank(), group.world_size());
        let groups = groups::split(vs, groups.into_iter().collect());
        let groups = group.agree("creating an optimizer", groups)?;
        let sizes: Vec<Vec<usize>> = groups.iter().map(|(parameters, _)| sizes(parameters)).collect();
        group
            .check_equal("ZeroRedundancy", &format!("ZeroRedundancy for groups of parameters of {sizes:?} elements"))?;

        let owners = partition(&sizes, ranks);
        let (mut all, mut own) = (Vec::new(), Vec::new());
        for ((parameters, options), owners) in groups.into_iter().zip(&owners) {
            let is_own = parameters.named.iter().zip(owners).filter(|&(_, &owner)| owner == rank);
            let named = is_own.map(|((name, tensor), _)| (name.clone(), tensor.shallow_clone())).collect();
            own.push((Parameters::new(named), options));
            all.extend(parameters.named);
        }
        let local = group.agree("creating an optimizer", Fused::from_groups(own))?;
        Ok(Self { group: group.clone(), local, parameters: Parameters::new(all), owners: owners.concat() })
    }

    /// The names of the parameters that this rank updates, and whose state it holds.
    pub fn own_parameters(&self) -> impl Iterator<Item = &str> {
        let is_own = |&(_, &owner): &(_, &usize)| owner == self.group.rank();
        self.parameters.named.iter().zip(&self.owners).filter(is_own).map(|((name, _), _)| name.as_str())
    }

    /// The settings of each group.
    pub fn options(&self) -> impl Iterator<Item = &A> {
        self.local.options()
    }

    /// `_sync_params`: sends each rank's parameters to all others.
    fn broadcast(&self) -> Result<()> {
        let ranks = self.group.world_size();
        for src in (0..ranks).filter(|_| ranks > 1) {
            let is_of_src = self.parameters.pointers.iter().zip(&self.owners).filter(|&(_, &owner)| owner == src);
            let pointers: Vec<_> = is_of_src.map(|(&pointer, _)| pointer).collect();
            let group = self.group.as_ptr();
            // SAFETY: `group` is live, and the pointers are of tensors that `self` keeps alive.
            check("sending parameters to all ranks", |error| unsafe {
                sys::ddp_broadcast_coalesced(group, pointers.as_ptr(), pointers.len(), to_i32(src), error)
            })?;
        }
        Ok(())
    }
}

impl<A: Algorithm> Optimizer for ZeroRedundancy<A> {
    fn step(&mut self) -> Result<()> {
        check_not_joining()?;
        self.local.step()?;
        self.broadcast()
    }

    fn as_scaled(&mut self) -> Option<&mut dyn ScaledStep> {
        Some(self)
    }

    fn zero_grad_with(&mut self, set_to_none: bool) -> Result<()> {
        self.parameters.zero_grad(set_to_none)
    }

    fn learning_rates(&self) -> Vec<f64> {
        self.local.learning_rates()
    }

    fn set_learning_rates(&mut self, lrs: &[f64]) -> Result<()> {
        self.local.set_learning_rates(lrs)
    }

    fn momenta(&self) -> Vec<f64> {
        self.local.momenta()
    }

    fn set_momenta(&mut self, momenta: &[f64]) -> Result<()> {
        self.local.set_momenta(momenta)
    }

    /// Those of all ranks.
    fn parameters(&self) -> Vec<(&str, &Tensor)> {
        self.parameters.named.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
    }

    fn is_sharded(&self) -> bool {
        true
    }

    /// `consolidate_state_dict`: rank 0 receives the other ranks' shards in CPU memory.
    fn consolidated_state_dict(&self) -> Result<StateDict> {
        let own = self.local.state_dict()?.into_tensors();
        let headers = own.iter().map(Header::new).collect::<Result<Vec<_>>>();
        let headers = self.group.agree("collecting the optimizer's state", headers)?;
        let Some(headers) = self.group.gather_value(&headers, 0)? else {
            for (_, tensor) in &own {
                let tensor = tensor.f_to_device(Device::Cpu).and_then(|tensor| tensor.f_contiguous());
                self.group.start_send(&tensor.map_err(failed)?, 0, STATE)?.wait()?;
            }
            return Ok(own.into_iter().collect());
        };
        let mut all = own;
        for (src, headers) in headers.into_iter().enumerate().skip(1) {
            for Header(name, size, kind) in headers {
                let mut tensor = memory::empty(&size, KINDS[kind]).map_err(failed)?;
                self.group.start_recv(&mut tensor, src, STATE)?.wait()?;
                all.push((name, tensor));
            }
        }
        Ok(all.into_iter().collect())
    }
}

impl<A: Algorithm> Stateful for ZeroRedundancy<A> {
    /// This rank's shard.
    fn state_dict(&self) -> Result<StateDict> {
        self.local.state_dict()
    }

    /// Takes this rank's shard of a complete state.
    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        let mut loaded: HashMap<_, _> = state.tensors().iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        let rank = self.group.rank();
        let mut own = Vec::new();
        for ((name, parameter), &owner) in self.parameters.named.iter().zip(&self.owners) {
            for &(state, is_scalar) in A::STATES {
                let Some((key, tensor)) = loaded.remove_entry(&*format!("{name}.{state}")) else { continue };
                if owner == rank {
                    own.push((key, tensor));
                } else {
                    state::check_fit(tensor, (state, is_scalar), name, parameter)?;
                }
            }
        }
        own.extend(loaded); // belongs to no parameter: the error names it
        let own = own.into_iter().map(|(name, tensor)| (name.to_owned(), tensor.shallow_clone()));
        self.local.load_state_dict(&own.collect())
    }
}

impl<A: Algorithm> ScaledStep for ZeroRedundancy<A> {
    /// All ranks have the same gradients, and so the same [`found_inf`](Scaling::found_inf). Only this rank's parameters have
    /// their gradients divided by the scale.
    fn step_scaled(&mut self, scaling: &Scaling<'_>) -> Result<()> {
        check_not_joining()?;
        self.local.step_scaled(scaling)?;
        self.broadcast()
    }
}

fn check_not_joining() -> Result<()> {
    if ddp::is_joining() {
        let problem = "can't step in Ddp::join: ranks without batches would not take part";
        return Err(Error::Invalid(format!("ZeroRedundancy {problem}")));
    }
    Ok(())
}

/// A tensor of the state: its name, its size, and its place in [`KINDS`].
#[derive(serde::Serialize, serde::Deserialize)]
struct Header(String, Vec<i64>, usize);

/// The dtypes that a parameter's state may have.
const KINDS: [Kind; 4] = [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16];

impl Header {
    fn new((name, tensor): &(String, Tensor)) -> Result<Self> {
        let kind = KINDS.iter().position(|kind| *kind == tensor.kind());
        let kind =
            kind.ok_or_else(|| Error::Invalid(format!("{name} is {:?}, expected one of {KINDS:?}", tensor.kind())))?;
        Ok(Self(name.clone(), tensor.size(), kind))
    }
}

fn sizes(parameters: &Parameters) -> Vec<usize> {
    parameters.named.iter().map(|(_, tensor)| tensor.numel()).collect()
}

/// `_partition_parameters`: the rank of each parameter. From the largest to the smallest of each group, a parameter goes to
/// the rank that has the fewest elements so far.
fn partition(groups: &[Vec<usize>], ranks: usize) -> Vec<Vec<usize>> {
    let mut totals = vec![0; ranks];
    let owners = groups.iter().map(|sizes| {
        let mut owners = vec![0; sizes.len()];
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&i| std::cmp::Reverse(sizes[i]));
        for i in order {
            let rank = (0..ranks).min_by_key(|&rank| totals[rank]).unwrap_or(0);
            owners[i] = rank;
            totals[rank] += sizes[i];
        }
        owners
    });
    owners.collect()
}

fn failed(err: tch::TchError) -> Error {
    Error::tch("collecting the optimizer's state")(err)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From `ZeroRedundancyOptimizer._partition_parameters` of torch 2.13.0 for these sizes.
    #[test]
    fn partition_matches_python() {
        let groups = [vec![10, 40, 20, 40, 5], vec![7, 30, 30]];
        assert_eq!(partition(&groups, 1), [vec![0; 5], vec![0; 3]]);
        assert_eq!(partition(&groups, 2), [vec![1, 0, 0, 1, 1], vec![1, 1, 0]]);
        assert_eq!(partition(&groups, 3), [vec![2, 0, 2, 1, 2], vec![1, 2, 0]]);
        assert_eq!(partition(&[vec![3, 3, 3, 3]], 8), [vec![0, 1, 2, 3]]);
    }
}
