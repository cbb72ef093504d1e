//! How a run finds the newest valid snapshot and loads it.

use std::collections::HashMap;
use std::path::Path;

use ddp_contract::snapshot::{self as format, Found, Manifest, SnapshotError, ValidSnapshot};
use tch::nn::VarStore;
use tch::{Device, Tensor};

use super::fit::{self, copy};
use super::state::Contents;
use super::{Progress, rng, tensors};
use crate::train::state_dict::StateDict;
use crate::worker::say::say;
use crate::{Error, Result};

/// The newest valid snapshot below `dir`. Warns of those that are skipped.
pub(super) fn choose(dir: &Path) -> Result<Option<ValidSnapshot>> {
    let Found { valid, mut skipped } = format::newest_valid(dir).map_err(Error::io("can't read", dir))?;
    if valid.is_none() && !skipped.is_empty() {
        let (newest, damage) = skipped.remove(0);
        return Err(Error::NoValidSnapshot { dir: dir.to_owned(), newest, damage });
    }
    for (folder, damage) in skipped {
        say(format_args!("warning: skipping snapshot {}: {damage}", folder.display()));
    }
    if let Some(ValidSnapshot { folder, manifest: Manifest { non_finite_since: Some(step), .. }, .. }) = &valid {
        let folder = folder.display();
        say(format_args!(
            "warning: snapshot {folder} was saved after the loss or a weight was not a finite number (step {step})"
        ));
    }
    Ok(valid)
}

/// Where strings in the state of this name represent numbers.
pub(super) fn non_finite<'a>(manifest: &'a Manifest, name: &str) -> &'a [String] {
    manifest.non_finite.get(name).map_or(&[], Vec::as_slice)
}

/// Loads the snapshot `folder`, which is valid and has this manifest.
pub(super) fn load(
    folder: &Path,
    manifest: &Manifest,
    model: &VarStore,
    contents: &mut Contents<'_>,
    rank: usize,
    device: Device,
) -> Result<Progress> {
    let mismatch = |what: &str, problem: &str| mismatch(what, folder, problem);
    // A snapshot that `cargo ddp snapshot import` made of another program's model holds only the model: the rest of
    // the run starts from scratch.
    let model_only = !manifest.files.contains_key(format::OPTIMIZER);

    // Whether the model fits is known before anything is changed.
    tensors::with_model(&folder.join(format::MODEL), |saved, aliases| {
        let pairs = fit::pairs(model, &saved, &aliases).map_err(|problem| mismatch("the model", &problem))?;
        if !model_only {
            tensors::with_tensors(&folder.join(format::OPTIMIZER), |saved| {
                contents.optimizer.load_state_dict(&fit::rename_states(model, saved, &aliases).into_iter().collect())
            })?;
        }
        copy(pairs)
    })?;
    let progress = Progress { epoch: manifest.epoch, step: manifest.step, samples: manifest.samples_in_epoch };
    if model_only {
        return Ok(progress);
    }
    let values = manifest
        .states
        .iter()
        .map(|(name, value)| (name.clone(), (value.clone(), non_finite(manifest, name).to_vec())));
    let states = match manifest.files.contains_key(format::STATES) {
        true => tensors::with_tensors(&folder.join(format::STATES), owned)?,
        false => Vec::new(), // there were none, or a version that had no such file wrote it
    };
    let state = StateDict::of_snapshot(folder, values.collect(), states);
    let parts = &mut contents.parts;
    parts.iter_mut().try_for_each(|part| part.load_state_dict(&state))?;
    parts.iter().try_for_each(|part| part.restore_optimizer(contents.optimizer))?;
    if manifest.files.contains_key(format::RNG) {
        let restored = |saved| rng::restore(&saved, rank, device, manifest.step);
        tensors::with_tensors(&folder.join(format::RNG), restored)?;
    }
    Ok(progress)
}

/// Copies, which outlive the file that the tensors are in.
fn owned(tensors: HashMap<String, Tensor>) -> Result<Vec<(String, Tensor)>> {
    let copy = |(name, tensor): (String, Tensor)| {
        let mut owned = tensor.f_empty_like()?;
        owned.f_copy_(&tensor)?;
        Ok((name, owned))
    };
    tensors.into_iter().map(copy).collect::<std::result::Result<_, _>>().map_err(Error::tch("reading a snapshot"))
}

/// The result of one of the contract's functions for the snapshot `folder`.
pub(super) fn read<T>(folder: &Path, by: impl FnOnce(&Path) -> std::result::Result<T, SnapshotError>) -> Result<T> {
    by(folder).map_err(|damage| Error::Io {
        action: "can't load",
        path: folder.to_owned(),
        reason: std::io::Error::other(damage),
    })
}

pub(super) fn mismatch(what: &str, folder: &Path, problem: &str) -> Error {
    Error::StateMismatch { what: format!("{what} from {}", folder.display()), problem: problem.to_owned() }
}
