//! The state of an object, as a snapshot holds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tch::Tensor;

use super::floats::{self, Encoded};
use crate::{Error, Result};

/// The state of a [`Stateful`](crate::Stateful): values by name, and tensors by name.
///
/// Values are JSON, in which NaN and infinite numbers keep their meaning. An optimizer's tensors are named
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
        let encoded = floats::encode(value).map_err(|err| Error::Invalid(format!("can't save {name}: {err}")))?;
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
        decoded.map_err(|err| Error::StateMismatch { what: self.located(name), problem: err.to_string() })
    }

    /// The value of this name.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when there is none, or for a value of another type.
    pub fn require<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.get(name)?.ok_or_else(|| self.missing(name))
    }

    /// Adds a tensor: a handle, not a copy.
    pub fn with_tensor(mut self, name: &str, tensor: &Tensor) -> Self {
        self.tensors.push((name.to_owned(), tensor.shallow_clone()));
        self
    }

    /// The tensor of this name, if there is one. A snapshot's is on the CPU.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|(known, _)| known == name).map(|(_, tensor)| tensor)
    }

    /// Copies the tensor of this name to `tensor`, on whatever device that is.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when there is none, or for a tensor of another shape or dtype.
    pub fn load_tensor(&self, name: &str, tensor: &mut Tensor) -> Result<()> {
        let saved = self.tensor(name).ok_or_else(|| self.missing(name))?;
        let form = |tensor: &Tensor| format!("{:?} {:?}", tensor.size(), tensor.kind());
        let (found, expected) = (form(saved), form(tensor));
        if found != expected {
            let what = self.located(name);
            return Err(Error::StateMismatch { what, problem: format!("it is {found}, expected {expected}") });
        }
        tch::no_grad(|| tensor.f_copy_(saved)).map_err(Error::tch("loading a tensor"))
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

    pub(crate) fn into_parts(self) -> (BTreeMap<String, Encoded>, Vec<(String, Tensor)>) {
        (self.values, self.tensors)
    }

    /// The values and tensors of a snapshot.
    pub(crate) fn of_snapshot(
        folder: &Path,
        values: BTreeMap<String, Encoded>,
        tensors: Vec<(String, Tensor)>,
    ) -> Self {
        Self { values, tensors, folder: Some(folder.to_owned()) }
    }

    fn missing(&self, name: &str) -> Error {
        let what = self.located(name);
        Error::StateMismatch { what, problem: "the snapshot has none".into() }
    }

    fn located(&self, name: &str) -> String {
        let place = self.folder.as_ref().map_or_else(String::new, |folder| format!(" from {}", folder.display()));
        format!("`{name}`{place}")
    }
}

impl FromIterator<(String, Tensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect(), ..Self::default() }
    }
}
