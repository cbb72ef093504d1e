//! `SavedModel`: a snapshot's model for inference, without a job.

use std::path::{Path, PathBuf};

use ddp_contract::snapshot::{self as format, MANIFEST, Manifest, SnapshotError, ValidSnapshot};
use serde::de::DeserializeOwned;
use tch::nn::VarStore;

use super::fit::{copy, pairs};
use super::load::{choose, mismatch, non_finite, read};
use super::state::value_name;
use super::{Goal, Progress, tensors};
use crate::train::floats;
use crate::worker::say::say;
use crate::{Error, Result};

/// A snapshot to read a trained model from, without a job: for inference. Until it is dropped, a running job does not remove
/// the snapshot.
///
/// ```no_run
/// use ddp_runtime::{Goal, SavedModel};
/// use tch::{Device, nn};
/// # fn main() -> ddp_runtime::Result<()> {
/// let Some(saved) = SavedModel::best("snapshots", Goal::Minimize)? else { panic!("nothing is trained yet") };
/// let classes: i64 = saved.value("classes")?.unwrap_or(10); // what the run saved with `Run::value`
/// let vs = nn::VarStore::new(Device::Cpu);
/// let model = nn::linear(vs.root(), 64, classes, Default::default());
/// saved.load(&vs)?;
/// println!("{} after step {}", saved.folder().display(), saved.progress().step);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct SavedModel {
    snapshot: ValidSnapshot,
}

impl SavedModel {
    /// The newest valid snapshot in `dir`, if there is one. Damaged ones are skipped, with a warning on stderr.
    ///
    /// # Errors
    /// [`Error::NoValidSnapshot`] when there are snapshots but none is valid; [`Error::Io`].
    pub fn newest(dir: impl AsRef<Path>) -> Result<Option<Self>> {
        Ok(choose(dir.as_ref())?.map(|snapshot| Self { snapshot }))
    }

    /// The snapshot in `dir` with the best [metric](crate::Run::metric), of several the newest; when none has a metric,
    /// the [newest](Self::newest).
    ///
    /// # Errors
    /// Those of [`newest`](Self::newest).
    pub fn best(dir: impl AsRef<Path>, goal: Goal) -> Result<Option<Self>> {
        let dir = dir.as_ref();
        let folders = format::list(dir).map_err(Error::io("can't read", dir))?;
        let mut found: Vec<(f64, PathBuf)> = folders
            .into_iter()
            .filter_map(|folder| Some((format::read_manifest(&folder).ok()?.metric?, folder)))
            .collect();
        // Stable: newest first among equals.
        found.sort_by(|(a, _), (b, _)| match goal {
            Goal::Minimize => a.total_cmp(b),
            Goal::Maximize => b.total_cmp(a),
        });
        for (_, folder) in found {
            match format::valid(&folder) {
                Ok(Some(snapshot)) => return Ok(Some(Self { snapshot })),
                Ok(None) => {} // removed meanwhile
                Err(damage) => say(format_args!("warning: skipping snapshot {}: {damage}", folder.display())),
            }
        }
        Self::newest(dir)
    }

    /// The snapshot in this folder, `snapshots/step-00001200`.
    ///
    /// # Errors
    /// [`Error::Io`] with what is wrong with it.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        let removed = || SnapshotError::Missing(MANIFEST.into());
        let snapshot = read(folder, |folder| format::valid(folder)?.ok_or_else(removed))?;
        Ok(Self { snapshot })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.snapshot.folder
    }

    /// The progress of its run.
    pub fn progress(&self) -> Progress {
        let Manifest { epoch, step, samples_in_epoch, .. } = self.snapshot.manifest;
        Progress { epoch, step, samples: samples_in_epoch }
    }

    /// The metric by which it was judged, if there was one.
    pub fn metric(&self) -> Option<f64> {
        self.snapshot.manifest.metric
    }

    /// What the run saved under this name with [`Run::value`](crate::Run::value), if it did.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] for a value of another type.
    pub fn value<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let name = value_name(name);
        let decode = |value| floats::decode(value, non_finite(&self.snapshot.manifest, &name));
        let value = self.snapshot.manifest.states.get(&name).map(decode).transpose();
        value.map_err(|err| mismatch(&name, &self.snapshot.folder, &err.to_string()))
    }

    /// Loads the variables of `model`, on whatever device they are.
    ///
    /// # Errors
    /// [`Error::StateMismatch`] when the model does not match; it is then unchanged. [`Error::Io`].
    pub fn load(&self, model: &VarStore) -> Result<()> {
        tensors::with_model(&self.snapshot.folder.join(format::MODEL), |saved, aliases| {
            let mismatch = |problem: String| mismatch("the model", &self.snapshot.folder, &problem);
            copy(pairs(model, &saved, &aliases).map_err(mismatch)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Contents;
    use crate::train::optim::{Sgd, SgdOptions};
    use crate::train::state_dict::StateDict;
    use crate::train::stateful::Stateful;
    use crate::{Backend, Context, Snapshots};
    use tch::{Device, nn};

    struct Names;

    impl Stateful for Names {
        fn state_dict(&self) -> Result<StateDict> {
            StateDict::new().with(&value_name("names"), &["a", "b"])
        }

        fn load_state_dict(&mut self, _state: &StateDict) -> Result<()> {
            Ok(())
        }
    }

    fn model(inputs: i64) -> (VarStore, nn::Linear) {
        let vs = VarStore::new(Device::Cpu);
        let layer = nn::linear(vs.root() / "l", inputs, 2, Default::default());
        (vs, layer)
    }

    #[test]
    fn saved_model_is_read_without_a_job() {
        let dir = tempfile::tempdir().unwrap();
        assert!(SavedModel::newest(dir.path()).unwrap().is_none());
        let context = Context::builder().backend(Backend::Gloo).init().unwrap();
        let (vs, layer) = model(3);
        let mut optimizer = Sgd::new(&vs, SgdOptions::default());
        let mut snapshots = Snapshots::open(&context, dir.path()).unwrap().blocking(true);
        let mut weights = Vec::new();
        for (step, metric) in [(1, 0.5), (2, 0.9), (3, 0.9), (4, 0.7)] {
            let _ = tch::no_grad(|| layer.ws.shallow_clone().fill_(step as f64));
            weights.push(layer.ws.copy());
            let mut names = Names;
            let contents = Contents { optimizer: &mut optimizer, parts: vec![&mut names], metric: Some(metric) };
            snapshots.save(&vs, &contents, Progress { epoch: 0, step, samples: 8 * step }).unwrap();
        }

        let step = |saved: Result<Option<SavedModel>>| saved.unwrap().unwrap().progress().step;
        assert_eq!(step(SavedModel::newest(dir.path())), 4);
        assert_eq!(step(SavedModel::best(dir.path(), Goal::Minimize)), 1);
        assert_eq!(step(SavedModel::best(dir.path(), Goal::Maximize)), 3);
        std::fs::write(dir.path().join("step-00000003").join(format::MODEL), "").unwrap();
        let best = SavedModel::best(dir.path(), Goal::Maximize).unwrap().unwrap();
        assert_eq!((best.progress(), best.metric()), (Progress { epoch: 0, step: 2, samples: 16 }, Some(0.9)));
        assert_eq!(best.value::<Vec<String>>("names").unwrap().unwrap(), ["a", "b"]);
        assert_eq!(best.value::<u8>("others").unwrap(), None);
        assert!(matches!(best.value::<u8>("names"), Err(Error::StateMismatch { .. })));

        let (fresh, layer) = model(3);
        best.load(&fresh).unwrap();
        assert_eq!(layer.ws, weights[1]);
        let err = best.load(&model(4).0).unwrap_err().to_string();
        assert!(err.contains("l.weight is [2, 3] Float in the snapshot, but [2, 4] Float in the model"), "{err}");
        assert!(SavedModel::open(dir.path().join("step-00000003")).is_err());
        assert_eq!(
            SavedModel::open(dir.path().join("step-00000001")).unwrap().folder(),
            dir.path().join("step-00000001")
        );
    }

    #[test]
    fn saved_snapshot_is_not_removed_while_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context::builder().backend(Backend::Gloo).init().unwrap();
        let (vs, _) = model(3);
        let mut optimizer = Sgd::new(&vs, SgdOptions::default());
        let mut snapshots = Snapshots::open(&context, dir.path()).unwrap().blocking(true).durable(false).keep_last(1);
        let mut step = 0;
        let mut save = || {
            step += 1;
            let contents = Contents { optimizer: &mut optimizer, parts: Vec::new(), metric: None };
            snapshots.save(&vs, &contents, Progress { epoch: 0, step, samples: 0 }).unwrap();
        };
        save();
        let held = SavedModel::newest(dir.path()).unwrap().unwrap();
        let reader = std::thread::spawn({
            let dir = dir.path().to_owned();
            move || {
                let mut last = 0;
                while last < 100 {
                    let saved = SavedModel::newest(&dir).unwrap().unwrap();
                    saved.load(&model(3).0).unwrap();
                    last = saved.progress().step;
                }
            }
        });
        while !reader.is_finished() {
            save();
        }
        reader.join().unwrap();
        held.load(&model(3).0).unwrap();
        drop(held);
        save();
        assert_eq!(format::list(dir.path()).unwrap().len(), 1, "what nobody reads is removed");
    }
}
