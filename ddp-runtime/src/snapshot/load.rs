use std::collections::HashMap;
use std::path::Path;

use ddp_contract::snapshot::{self as format, Search, Whole};
use tch::Tensor;
use tch::nn::VarStore;

use super::{Progress, tensors};
use crate::optim::Optimizer;
use crate::{Error, Result, params};

/// The newest whole snapshot below `dir`. Warns of those passed over.
pub(super) fn choose(dir: &Path) -> Result<Option<Whole>> {
    let Search { whole, mut skipped } = format::newest_whole(dir).map_err(Error::io("can't read", dir))?;
    if whole.is_none() && !skipped.is_empty() {
        let (newest, damage) = skipped.remove(0);
        return Err(Error::NoWholeSnapshot { dir: dir.to_owned(), newest, damage });
    }
    for (folder, damage) in skipped {
        eprintln!("warning: snapshot {} is passed over: {damage}", folder.display());
    }
    Ok(whole)
}

/// Loads the snapshot `folder`, which was found whole, into the model and the optimizer.
pub(super) fn load(folder: &Path, vs: &VarStore, optimizer: &mut impl Optimizer) -> Result<Progress> {
    let manifest = format::read_manifest(folder).map_err(|damage| Error::Io {
        action: "can't load",
        path: folder.to_owned(),
        source: std::io::Error::other(damage),
    })?;
    let model = tensors::read(&folder.join(format::MODEL))?;
    let state = tensors::read(&folder.join(format::OPTIMIZER))?;
    let copies = fit(&params::all(vs), model, folder)?;
    optimizer.load_state_dict(state)?;
    tch::no_grad(|| copies.into_iter().try_for_each(|(mut to, from)| to.f_copy_(&from).map(|_| ())))
        .map_err(Error::tch("loading the model"))?;
    Ok(Progress { epoch: manifest.epoch, step: manifest.step })
}

/// Pairs each variable of the model with its tensor in the snapshot: all of them, or the first that does not fit.
fn fit(
    variables: &[(String, Tensor)],
    mut saved: HashMap<String, Tensor>,
    folder: &Path,
) -> Result<Vec<(Tensor, Tensor)>> {
    let mismatch = |problem| Error::StateMismatch { what: format!("the model in {}", folder.display()), problem };
    let mut pairs = Vec::new();
    for (name, variable) in variables {
        let tensor = saved.remove(name).ok_or_else(|| mismatch(format!("it has no {name}")))?;
        if tensor.size() != variable.size() || tensor.kind() != variable.kind() {
            let shape = |t: &Tensor| format!("{:?} {:?}", t.size(), t.kind());
            return Err(mismatch(format!("{name} is {} there and {} here", shape(&tensor), shape(variable))));
        }
        pairs.push((variable.shallow_clone(), tensor));
    }
    match saved.keys().min() {
        Some(name) => Err(mismatch(format!("its {name} is no variable of this model"))),
        None => Ok(pairs),
    }
}
