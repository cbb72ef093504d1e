//! States to JSON and back.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Schedule;
use crate::{Error, Result};

pub(super) fn mismatch(problem: impl Into<String>) -> Error {
    Error::StateMismatch { what: "the learning rate scheduler's state".into(), problem: problem.into() }
}

pub(super) fn to_json(state: &impl Serialize) -> Value {
    // Structs of numbers, texts and lists always become JSON; a null would be refused when it is loaded.
    serde_json::to_value(state).unwrap_or_default()
}

pub(super) fn from_json<T: DeserializeOwned>(json: &Value) -> Result<T> {
    T::deserialize(json).map_err(|err| mismatch(err.to_string()))
}

/// Replaces a schedule's settings by valid ones.
pub(super) fn load_settings<S: Schedule + DeserializeOwned>(schedule: &mut S, settings: &Value) -> Result<()> {
    let loaded: S = from_json(settings)?;
    loaded.check().map_err(|err| mismatch(err.to_string()))?;
    *schedule = loaded;
    Ok(())
}
