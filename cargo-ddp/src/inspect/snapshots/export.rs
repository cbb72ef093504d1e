//! `cargo ddp snapshot export`: a snapshot's model as one `.safetensors` or `.pt` file.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::path::Path;

use ddp_contract::snapshot::{self as format, ValidSnapshot};
use safetensors::tensor::{TensorView, serialize_to_file};

use super::names::Names;
use super::tensors::TensorFile;
use super::torch_file;
use crate::os::output::Output;
use crate::{Error, Result};

/// What other programs read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `model.safetensors`.
    Safetensors,
    /// PyTorch's `model.pt`: what `torch.save(model.state_dict(), path)` writes.
    Torch,
}

impl Format {
    /// By the ending of a file's name.
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "safetensors" => Some(Self::Safetensors),
            "pt" | "pth" => Some(Self::Torch),
            _ => None,
        }
    }
}

/// Writes the snapshot's model to `to`, completely or not at all, and returns the number of tensors.
///
/// # Errors
/// [`Error::Exists`], [`Error::BadOption`] for an ending that is none of ours or names that do not fit, [`Error::System`].
pub fn export(snapshot: &ValidSnapshot, names: &Names, to: &Path) -> Result<usize> {
    let bad = |problem: String| Error::BadOption { option: "to", problem };
    let format =
        Format::from_path(to).ok_or_else(|| bad(format!("{} must end in .safetensors, .pt or .pth", to.display())))?;
    // A device or a FIFO is there, and is written to.
    if fs::metadata(to).is_ok_and(|found| found.is_file() || found.is_dir()) {
        return Err(Error::Exists(to.to_owned()));
    }
    let file = TensorFile::open(&snapshot.folder.join(format::MODEL))?;
    let Renamed { tensors, aliases } = renamed(&file, names)?;
    let cant = || Error::system(format!("can't write {}", to.display()));
    let output = Output::open(to).map_err(cant())?;
    let folder = output.file().map(|place| place.parent().filter(|folder| !folder.as_os_str().is_empty()));
    let folder = folder.map_or_else(std::env::temp_dir, |folder| folder.unwrap_or(Path::new(".")).to_owned());
    let place = tempfile::Builder::new().prefix(".export-").tempdir_in(folder).map_err(cant())?;
    let partial = place.path().join("file");
    let count = tensors.len();
    match format {
        Format::Safetensors => {
            // What Hugging Face's programs ask for, and where it comes from.
            let metadata = [("format", "pt".to_owned()), ("step", snapshot.manifest.step.to_string())];
            let mut metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.to_owned(), value)).into();
            metadata.extend(aliases);
            serialize_to_file(tensors, Some(metadata), &partial).map_err(|err| cant()(std::io::Error::other(err)))?;
        }
        Format::Torch => torch_file::write(&partial, &tensors, &aliases).map_err(cant())?,
    }
    let mut written = File::open(&partial).map_err(cant())?;
    let Some(to) = output.file() else {
        return output.copy_from(&mut written).map(|()| count).map_err(cant());
    };
    written.sync_all().map_err(cant())?;
    // Unlike a rename, a link never replaces what somebody else made meanwhile.
    match fs::hard_link(&partial, to) {
        Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::Exists(to.to_owned())),
        // A file system without links.
        Err(_) => fs::rename(&partial, to).map(|()| count).map_err(cant()),
        Ok(()) => Ok(count),
    }
}

/// A file's tensors under their new names.
pub(super) struct Renamed<'file> {
    pub(super) tensors: Vec<(String, TensorView<'file>)>,
    /// Further names (tied weights), each with the one that the tensor is under.
    pub(super) aliases: BTreeMap<String, String>,
}

pub(super) fn renamed<'file>(file: &'file TensorFile, names: &Names) -> Result<Renamed<'file>> {
    let (tensors, aliases) = (file.sorted()?, file.aliases()?);
    let bad = |problem| Error::BadOption { option: "names", problem };
    let old: Vec<&str> =
        tensors.iter().map(|(name, _)| name.as_str()).chain(aliases.keys().map(String::as_str)).collect();
    let new = names.apply(old.iter().copied()).map_err(bad)?;
    let mut new_of: BTreeMap<&str, String> =
        old.iter().copied().zip(new).filter_map(|(old, new)| Some((old, new?))).collect();
    let mut renamed = Renamed { tensors: Vec::new(), aliases: BTreeMap::new() };
    for (old, view) in &tensors {
        let further =
            aliases.iter().filter(|(_, name)| *name == old).filter_map(|(alias, _)| new_of.remove(alias.as_str()));
        let mut further: Vec<String> = further.collect();
        // The first one that is left names the tensor.
        let Some(name) = new_of.remove(old.as_str()).or_else(|| (!further.is_empty()).then(|| further.remove(0)))
        else {
            continue;
        };
        renamed.aliases.extend(further.into_iter().map(|alias| (alias, name.clone())));
        renamed.tensors.push((name, view.clone()));
    }
    if renamed.tensors.is_empty() && !tensors.is_empty() {
        return Err(bad("every tensor is left out; give at least one of them a name".into()));
    }
    Ok(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_table_that_leaves_out_every_tensor_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [file, rules] = ["model.safetensors", "names.json"].map(|name| dir.path().join(name));
        let data = [0; 4];
        let view = || TensorView::new(safetensors::Dtype::F32, vec![1], &data).unwrap();
        serialize_to_file([("a", view()), ("b", view())], None, &file).unwrap();
        let file = TensorFile::open(&file).unwrap();
        let renamed = |text: &str| {
            fs::write(&rules, text).unwrap();
            renamed(&file, &Names::read(&rules).unwrap()).map(|renamed| renamed.tensors.len())
        };
        assert_eq!(renamed(r#"{"a": ""}"#).unwrap(), 1);
        assert!(renamed(r#"{"*": ""}"#).unwrap_err().to_string().contains("every tensor is left out"));
    }
}
