//! What can be saved in a snapshot and loaded from one: anything `Stateful`, and optimizers, which every run has. (The two traits
//! refer to each other: an optimizer is `Stateful`, and a scheduler sets the rates of an optimizer when it is loaded.)

use tch::Tensor;

use super::scaled::ScaledStep;
use super::state_dict::StateDict;
use crate::Result;

/// An object that can save its state and load it: PyTorch's `Stateful` (`torch/distributed/checkpoint/stateful.py`).
///
/// Optimizers, learning rate schedulers, [`GradScaler`](crate::amp::GradScaler), and tuples and options of these are
/// `Stateful`. A [`Run`](crate::Run) saves and loads what it is given. Implement this trait for state of your own that is
/// more than a [value](crate::Run::value), such as one with tensors:
///
/// ```
/// use ddp_runtime::{Result, StateDict, Stateful};
/// use tch::Tensor;
///
/// /// A running mean of the loss of each class.
/// struct Smoothed {
///     count: u64,
///     means: Tensor,
/// }
///
/// impl Stateful for Smoothed {
///     fn state_dict(&self) -> Result<StateDict> {
///         Ok(StateDict::new().with("smoothed.count", &self.count)?.with_tensor("smoothed.means", &self.means))
///     }
///
///     fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
///         let count = state.require("smoothed.count")?;
///         state.load_tensor("smoothed.means", &mut self.means)?;
///         self.count = count;
///         Ok(())
///     }
/// }
///
/// let saved = Smoothed { count: 3, means: Tensor::from_slice(&[0.5, 0.25]) }.state_dict()?;
/// let mut other = Smoothed { count: 0, means: Tensor::from_slice(&[0.0, 0.0]) };
/// other.load_state_dict(&saved)?;
/// assert_eq!((other.count, other.means), (3, Tensor::from_slice(&[0.5, 0.25])));
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
pub trait Stateful {
    /// The state; of one that is sharded across the ranks, this rank's part. Tensors are handles of the object's own tensors, not copies.
    ///
    /// # Errors
    /// The object's own, such as [`Error::Torch`](crate::Error::Torch) for a number that can't be read from a GPU.
    fn state_dict(&self) -> Result<StateDict>;

    /// Replaces the state by one that [`state_dict`](Self::state_dict) gave. `state` may hold other objects' values, which
    /// are ignored.
    ///
    /// # Errors
    /// [`Error::StateMismatch`](crate::Error::StateMismatch) for a state of another kind, or without an entry that is needed; then the object is
    /// unchanged.
    fn load_state_dict(&mut self, state: &StateDict) -> Result<()>;

    /// Sets what this object controls in `optimizer`, such as the learning rates of a scheduler. A [`Run`](crate::Run)
    /// calls it after it has loaded the state. By default it does nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an optimizer with another number of parameter groups.
    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        let _ = optimizer;
        Ok(())
    }
}

/// What a training loop and a snapshot need of an optimizer.
///
/// Its [state](Stateful) is tensors named `<parameter>.<state>` with PyTorch's names of states (`momentum_buffer`, `exp_avg`,
/// `exp_avg_sq`, `max_exp_avg_sq`, `step`). Learning rates are not part of it: a scheduler's state has them.
pub trait Optimizer: Stateful {
    /// Updates the parameters from their gradients. Parameters without a gradient are left alone.
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    fn step(&mut self) -> Result<()>;

    /// The step that a [`GradScaler`](crate::amp::GradScaler) takes without waiting for a GPU. With `None`, the default, it
    /// looks at its `found_inf` and calls [`step`](Self::step).
    fn as_scaled(&mut self) -> Option<&mut dyn ScaledStep> {
        None
    }

    /// Clears the gradients, to none, as in PyTorch: [`zero_grad_with(true)`](Self::zero_grad_with).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    fn zero_grad(&mut self) -> Result<()> {
        self.zero_grad_with(true)
    }

    /// PyTorch's `zero_grad(set_to_none=…)`: gradients that are set to none free their memory, and a step leaves their
    /// parameters alone; gradients that are set to zero keep it, and a step still decays weights and moves by momentum.
    ///
    /// Set to zero, gradients stay views of a [`Ddp`](crate::Ddp)'s buckets, but each is an addition and a division in the
    /// next backward pass, where a new gradient is one copy: set to none starts fewer kernels, fewest with
    /// [`batched_grad_copy`](crate::DdpOptions::batched_grad_copy).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch).
    fn zero_grad_with(&mut self, set_to_none: bool) -> Result<()>;

    /// The learning rate in use; of several groups, the first one's.
    fn learning_rate(&self) -> f64 {
        self.learning_rates().first().copied().unwrap_or(f64::NAN)
    }

    /// Changes the learning rate of all groups from the next step on.
    fn set_learning_rate(&mut self, lr: f64) {
        let lrs = vec![lr; self.learning_rates().len()];
        // As many as there are groups.
        let _ = self.set_learning_rates(&lrs);
    }

    /// The learning rate of each group.
    fn learning_rates(&self) -> Vec<f64>;

    /// Changes the learning rate of each group from the next step on.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for another number of rates than of groups.
    fn set_learning_rates(&mut self, lrs: &[f64]) -> Result<()>;

    /// The momentum (SGD) or first beta (Adam) of each group, which [`OneCycle`](crate::lr_scheduler::OneCycle) may
    /// cycle.
    fn momenta(&self) -> Vec<f64>;

    /// Changes the momentum or first beta of each group from the next step on.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for another number than of groups.
    fn set_momenta(&mut self, momenta: &[f64]) -> Result<()>;

    /// The parameters of all groups, by name.
    fn parameters(&self) -> Vec<(&str, &Tensor)>;

    /// The state of all ranks together, complete on rank 0: what a snapshot saves. Every rank must call it. An optimizer
    /// whose state is the same on all ranks returns its [`state_dict`](Stateful::state_dict).
    ///
    /// # Errors
    /// [`Error::Torch`](crate::Error::Torch) and [`Error::Timeout`](crate::Error::Timeout) from the group.
    fn consolidated_state_dict(&self) -> Result<StateDict> {
        self.state_dict()
    }

    /// Whether each rank's [`state_dict`](Stateful::state_dict) is its own shard, so that the ranks' states are not equal. By
    /// default it is not.
    fn is_sharded(&self) -> bool {
        false
    }
}

/// Nothing to save.
impl Stateful for () {
    fn state_dict(&self) -> Result<StateDict> {
        Ok(StateDict::new())
    }

    fn load_state_dict(&mut self, _state: &StateDict) -> Result<()> {
        Ok(())
    }
}

impl<T: Stateful> Stateful for Option<T> {
    fn state_dict(&self) -> Result<StateDict> {
        self.as_ref().map_or_else(|| Ok(StateDict::new()), T::state_dict)
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        self.as_mut().map_or(Ok(()), |part| part.load_state_dict(state))
    }

    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.as_ref().map_or(Ok(()), |part| part.restore_optimizer(optimizer))
    }
}

impl<T: Stateful + ?Sized> Stateful for Box<T> {
    fn state_dict(&self) -> Result<StateDict> {
        (**self).state_dict()
    }

    fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
        (**self).load_state_dict(state)
    }

    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        (**self).restore_optimizer(optimizer)
    }
}

macro_rules! tuples {
    ($(($($part:ident $index:tt),+))+) => {$(
        /// The parts' entries together.
        impl<$($part: Stateful),+> Stateful for ($($part,)+) {
            fn state_dict(&self) -> Result<StateDict> {
                Ok(StateDict::new()$(.merge(self.$index.state_dict()?))+)
            }

            fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
                $(self.$index.load_state_dict(state)?;)+
                Ok(())
            }

            fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
                $(self.$index.restore_optimizer(optimizer)?;)+
                Ok(())
            }
        }
    )+};
}
tuples!((A 0) (A 0, B 1) (A 0, B 1, C 2));

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(&'static str, f64);

    impl Stateful for Count {
        fn state_dict(&self) -> Result<StateDict> {
            StateDict::new().with(self.0, &self.1)
        }

        fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
            self.1 = state.require(self.0)?;
            Ok(())
        }
    }

    #[test]
    fn stateful_tuples_options_and_boxes_save_their_parts() {
        let saved = (Count("a", f64::NAN), Some(Count("b", 2.0)), (Box::new(Count("c", f64::NEG_INFINITY)),));
        let state = saved.state_dict().unwrap();
        let mut loaded = (Count("a", 0.0), Some(Count("b", 0.0)), (Box::new(Count("c", 0.0)),));
        loaded.load_state_dict(&state).unwrap();
        assert!(loaded.0.1.is_nan());
        assert_eq!((loaded.1.unwrap().1, loaded.2.0.1), (2.0, f64::NEG_INFINITY));
        None::<Count>.load_state_dict(&state).unwrap();
        ().load_state_dict(&state).unwrap();
    }

    #[test]
    fn state_dict_names_missing_and_mistyped_entries() {
        let state = StateDict::new().with("a", "text").unwrap();
        let problem = |loaded: Result<()>| loaded.unwrap_err().to_string();
        assert_eq!(problem(Count("b", 0.0).load_state_dict(&state)), "can't load `b`: the snapshot has none");
        assert!(problem(Count("a", 0.0).load_state_dict(&state)).starts_with("can't load `a`: invalid type: string"));
    }
}
