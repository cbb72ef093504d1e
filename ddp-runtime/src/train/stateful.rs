//! What can be saved in a snapshot and loaded from one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::Tensor;

use crate::snapshot::floats::{self, Encoded};
use crate::train::optim::Optimizer;
use crate::{Error, Result};

/// An object that can save its state and load it: PyTorch's `Stateful` (`torch/distributed/checkpoint/stateful.py`).
///
/// Optimizers, learning rate schedulers, [`GradScaler`](crate::amp::GradScaler), and tuples and options of these are
/// `Stateful`. A [`Run`](crate::Run) saves and loads what it is given. Implement this trait for state of your own that is
/// more than a [value](crate::Run::value):
///
/// ```
/// use ddp_runtime::{Result, StateDict, Stateful};
///
/// /// A running mean of the loss.
/// struct Smoothed(f64);
///
/// impl Stateful for Smoothed {
///     fn state_dict(&self) -> Result<StateDict> {
///         StateDict::new().with("smoothed", &self.0)
///     }
///
///     fn load_state_dict(&mut self, state: &StateDict) -> Result<()> {
///         self.0 = state.require("smoothed")?;
///         Ok(())
///     }
/// }
///
/// let saved = Smoothed(0.5).state_dict()?;
/// let mut other = Smoothed(f64::NAN);
/// other.load_state_dict(&saved)?;
/// assert_eq!(other.0, 0.5);
/// # Ok::<(), ddp_runtime::Error>(())
/// ```
pub trait Stateful {
    /// The state; of one that is sharded across the ranks, this rank's part. Tensors are handles of the object's own tensors, not copies.
    ///
    /// # Errors
    /// The object's own, such as [`Error::Torch`] for a number that can't be read from a GPU.
    fn state_dict(&self) -> Result<StateDict>;

    /// Replaces the state by one that [`state_dict`](Self::state_dict) gave. `state` may hold other objects' values, which
    /// are ignored.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] for a state of another kind, or without an entry that is needed; then the object is
    /// unchanged.
    fn load_state_dict(&mut self, state: &StateDict) -> Result<()>;

    /// Sets what this object controls in `optimizer`, such as the learning rates of a scheduler. A [`Run`](crate::Run)
    /// calls it after it has loaded the state. By default it does nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an optimizer with another number of parameter groups.
    fn restore_optimizer(&self, optimizer: &mut dyn Optimizer) -> Result<()> {
        let _ = optimizer;
        Ok(())
    }
}

/// The state of a [`Stateful`]: values by name, and tensors by name.
///
/// Values are JSON, in which NaN and infinite numbers keep their meaning. Tensors are an optimizer's, named
/// `<parameter>.<state>`.
#[derive(Debug, Default)]
pub struct StateDict {
    values: BTreeMap<String, Encoded>,
    tensors: Vec<(String, Tensor)>,
    /// The snapshot that it was read from, for errors.
    folder: Option<PathBuf>,
}

impl StateDict {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value. A value of the same name is replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a value that JSON can't hold, such as a map whose keys are not strings.
    pub fn with(mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<Self> {
        let encoded = floats::encode(value).map_err(|err| Error::Invalid(format!("{name} can't be saved: {err}")))?;
        self.values.insert(name.to_owned(), encoded);
        Ok(self)
    }

    /// The value of this name, if there is one.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] for a value of another type.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let decode = |(json, pointers): &Encoded| floats::decode(json, pointers);
        let decoded = self.values.get(name).map(decode).transpose();
        decoded.map_err(|err| Error::StateMismatch { what: name.to_owned(), problem: err.to_string() })
    }

    /// The value of this name.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when there is none, or for a value of another type.
    pub fn require<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.get(name)?.ok_or_else(|| {
            let what = self.located(&format!("the {name}"));
            Error::StateMismatch { what, problem: "it was saved without one".into() }
        })
    }

    /// The tensors, in the order in which they were added.
    pub fn tensors(&self) -> &[(String, Tensor)] {
        &self.tensors
    }

    /// The tensors alone.
    pub fn into_tensors(self) -> Vec<(String, Tensor)> {
        self.tensors
    }

    /// Adds all entries of `other`. Values of the same name are replaced.
    pub fn merge(mut self, other: Self) -> Self {
        self.values.extend(other.values);
        self.tensors.extend(other.tensors);
        self
    }

    pub(crate) fn into_values(self) -> BTreeMap<String, Encoded> {
        self.values
    }

    /// The values of a snapshot.
    pub(crate) fn of_snapshot(folder: &Path, values: BTreeMap<String, Encoded>) -> Self {
        Self { values, tensors: Vec::new(), folder: Some(folder.to_owned()) }
    }

    fn located(&self, name: &str) -> String {
        self.folder.as_ref().map_or_else(|| name.to_owned(), |folder| format!("{name} in {}", folder.display()))
    }
}

impl FromIterator<(String, Tensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect(), ..Self::default() }
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
    fn tuples_options_and_boxes_hold_their_parts() {
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
    fn missing_and_mistyped_entries_are_named() {
        let state = StateDict::new().with("a", "text").unwrap();
        let problem = |loaded: Result<()>| loaded.unwrap_err().to_string();
        assert_eq!(problem(Count("b", 0.0).load_state_dict(&state)), "the b does not fit: it was saved without one");
        assert!(problem(Count("a", 0.0).load_state_dict(&state)).starts_with("a does not fit: invalid type: string"));
    }
}
