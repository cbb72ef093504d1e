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
        decoded.map_err(|err| Error::StateMismatch { what: name.to_owned(), problem: err.to_string() })
    }

    /// The value of this name.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when there is none, or for a value of another type.
    pub fn require<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.get(name)?.ok_or_else(|| {
            let what = self.located(&format!("the {name}"));
            Error::StateMismatch { what, problem: "the snapshot has none".into() }
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
        self.folder.as_ref().map_or_else(|| name.to_owned(), |folder| format!("{name} from {}", folder.display()))
    }
}

impl FromIterator<(String, Tensor)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, Tensor)>>(tensors: I) -> Self {
        Self { tensors: tensors.into_iter().collect(), ..Self::default() }
    }
}
