use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tch::nn::VarStore;

use super::floats::{self, Encoded};
use crate::train::amp::GradScaler;
use crate::train::lr_scheduler::{LrScheduler, ReduceLrOnPlateau};
use crate::train::optim::Optimizer;
use crate::{Error, Result};

/// Names in the manifest.
pub(super) const SCHEDULER: &str = "scheduler";
pub(super) const PLATEAU: &str = "plateau";
pub(super) const SCALER: &str = "scaler";

/// The name of a value of the program's own.
pub(super) fn value_name(name: &str) -> String {
    format!("value.{name}")
}

/// What a snapshot saves; see [`Snapshots::save`](super::Snapshots::save). Making one copies nothing.
///
/// The state of the random number generators (libtorch's, for the CPU and the rank's GPU) of every rank is saved, too.
pub struct State<'a> {
    pub(super) model: &'a VarStore,
    pub(super) optimizer: &'a dyn Optimizer,
    pub(super) metric: Option<f64>,
    pub(super) parts: Vec<(String, Save<'a>)>,
}

type Save<'a> = Box<dyn Fn() -> Result<Encoded> + 'a>;

impl<'a> State<'a> {
    /// The variables of a model, and the optimizer's state.
    pub fn new(model: &'a VarStore, optimizer: &'a dyn Optimizer) -> Self {
        Self { model, optimizer, metric: None, parts: Vec::new() }
    }

    /// And a learning rate scheduler's.
    pub fn scheduler(self, scheduler: &'a dyn LrScheduler) -> Self {
        self.part(SCHEDULER.into(), || Ok((scheduler.state(), Vec::new())))
    }

    /// And that of a [`ReduceLrOnPlateau`].
    pub fn plateau(self, scheduler: &'a ReduceLrOnPlateau) -> Self {
        self.part(PLATEAU.into(), || Ok((scheduler.state(), Vec::new())))
    }

    /// And a gradient scaler's.
    pub fn scaler(self, scaler: &'a GradScaler) -> Self {
        self.part(SCALER.into(), || Ok((scaler.state()?, Vec::new())))
    }

    /// And a value of the program's own, as JSON; NaN and infinite numbers come back as they were. Rank 0's is saved.
    pub fn value(self, name: &str, value: &'a impl Serialize) -> Self {
        let named = value_name(name);
        self.part(named.clone(), move || {
            floats::encode(value).map_err(|err| Error::Invalid(format!("{named} can't be saved: {err}")))
        })
    }

    /// What the model is judged by now, such as the loss of an evaluation: for
    /// [`Snapshots::keep_best`](super::Snapshots::keep_best).
    pub fn metric(mut self, metric: f64) -> Self {
        self.metric = Some(metric).filter(|metric| metric.is_finite());
        self
    }

    fn part(mut self, name: String, save: impl Fn() -> Result<Encoded> + 'a) -> Self {
        self.parts.push((name, Box::new(save)));
        self
    }
}

/// What a snapshot is loaded into; see [`Snapshots::resume`](super::Snapshots::resume).
pub struct StateMut<'a> {
    pub(super) model: &'a VarStore,
    pub(super) optimizer: &'a mut dyn Optimizer,
    pub(super) scheduler: Option<&'a mut dyn LrScheduler>,
    pub(super) plateau: Option<&'a mut ReduceLrOnPlateau>,
    pub(super) scaler: Option<&'a mut GradScaler>,
    pub(super) values: Vec<(String, Load<'a>)>,
}

type Load<'a> = Box<dyn FnOnce(&Value, &[String]) -> Result<()> + 'a>;

impl<'a> StateMut<'a> {
    /// The variables of a model, and an optimizer.
    pub fn new(model: &'a VarStore, optimizer: &'a mut dyn Optimizer) -> Self {
        Self { model, optimizer, scheduler: None, plateau: None, scaler: None, values: Vec::new() }
    }

    /// And a learning rate scheduler, which gives the optimizer the rate that it had.
    pub fn scheduler(self, scheduler: &'a mut dyn LrScheduler) -> Self {
        Self { scheduler: Some(scheduler), ..self }
    }

    /// And a [`ReduceLrOnPlateau`], likewise.
    pub fn plateau(self, scheduler: &'a mut ReduceLrOnPlateau) -> Self {
        Self { plateau: Some(scheduler), ..self }
    }

    /// And a gradient scaler.
    pub fn scaler(self, scaler: &'a mut GradScaler) -> Self {
        Self { scaler: Some(scaler), ..self }
    }

    /// And a value of the program's own. It stays as it is if the snapshot has none of this name.
    pub fn value<T: DeserializeOwned>(mut self, name: &str, value: &'a mut T) -> Self {
        let named = value_name(name);
        let what = named.clone();
        let load = move |json: &Value, pointers: &[String]| {
            let mismatch = |err: serde_json::Error| Error::StateMismatch { what, problem: err.to_string() };
            *value = floats::decode(json, pointers).map_err(mismatch)?;
            Ok(())
        };
        self.values.push((named, Box::new(load)));
        self
    }
}

impl std::fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(|(name, _)| name).collect();
        f.debug_struct("State").field("metric", &self.metric).field("parts", &parts).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for StateMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let values: Vec<_> = self.values.iter().map(|(name, _)| name).collect();
        f.debug_struct("StateMut").field("values", &values).finish_non_exhaustive()
    }
}
