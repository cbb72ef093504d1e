//! `cargo ddp snapshot …`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ddp_contract::snapshot::{self as format, Manifest, ValidSnapshot};
use ddp_contract::text::printable_line;
use serde_json::{Value, json};

use super::table::{number, path, print_json, size, table};
use crate::cli::{
    SnapshotCommand, SnapshotDiff, SnapshotExport, SnapshotImport, SnapshotList, SnapshotPrune, SnapshotShow,
};
use crate::inspect::snapshots::{self as snapshot, Change, Comparison, Listed, Names, TensorFile, TensorInfo};
use crate::{Error, Result, Ui, exit};

pub(super) fn snapshot(command: &SnapshotCommand, ui: &Ui) -> Result<u8> {
    match command {
        SnapshotCommand::Ls(args) => ls(args),
        SnapshotCommand::Show(args) => show(args),
        SnapshotCommand::Verify(args) => verify(args),
        SnapshotCommand::Diff(args) => diff(args),
        SnapshotCommand::Prune(args) => prune(args, ui),
        SnapshotCommand::Export(args) => export(args, ui),
        SnapshotCommand::Import(args) => import(args, ui),
    }
}

/// The folder that was named, or the default one.
fn folder(named: Option<&Path>) -> PathBuf {
    named.map_or_else(|| snapshot::usual_folder(&std::env::current_dir().unwrap_or_default()), Path::to_owned)
}

fn ls(args: &SnapshotList) -> Result<u8> {
    let found = snapshot::list(&folder(args.dir.as_deref()))?;
    if args.json {
        print_json(&found.iter().map(listed_json).collect::<Vec<_>>())?;
        return Ok(exit::SUCCESS);
    }
    for line in listing(&found) {
        println!("{line}");
    }
    Ok(exit::SUCCESS)
}

fn listing(found: &[Listed]) -> Vec<String> {
    let head = ["STEP", "EPOCH", "WORKERS", "SIZE", "METRIC", "STATE"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(found.iter().map(row)).collect();
    table(&rows, &[0, 1, 2, 3, 4])
}

fn row(listed: &Listed) -> [String; 6] {
    let of = |value: fn(&Manifest) -> String| listed.manifest.as_ref().map_or_else(|_| "-".to_owned(), value);
    [
        listed.step.to_string(),
        of(|manifest| manifest.epoch.to_string()),
        of(|manifest| manifest.world_size.to_string()),
        size(listed.bytes),
        of(|manifest| manifest.metric.map_or_else(|| "-".to_owned(), number)),
        match &listed.manifest {
            Ok(manifest) if is_model_only(manifest) => "valid (a model only)".into(),
            Ok(Manifest { non_finite_since: Some(step), .. }) => format!("valid (loss not finite since step {step})"),
            Ok(_) => "valid".into(),
            Err(damage) => format!("damaged: {damage}"),
        },
    ]
}

fn is_model_only(manifest: &Manifest) -> bool {
    !manifest.files.contains_key(format::OPTIMIZER)
}

fn listed_json(listed: &Listed) -> Value {
    let manifest = listed.manifest.as_ref().ok();
    json!({
        "folder": listed.folder.to_string_lossy(), "step": listed.step, "bytes": listed.bytes, "valid": manifest.is_some(),
        "damage": listed.manifest.as_ref().err().map(ToString::to_string),
        "epoch": manifest.map(|m| m.epoch), "world_size": manifest.map(|m| m.world_size),
        "metric": manifest.and_then(|m| m.metric), "non_finite_since": manifest.and_then(|m| m.non_finite_since),
    })
}

fn verify(args: &SnapshotList) -> Result<u8> {
    let found = snapshot::list(&folder(args.dir.as_deref()))?;
    if args.json {
        print_json(&found.iter().map(listed_json).collect::<Vec<_>>())?;
    } else {
        found.iter().for_each(|listed| println!("{}", verified(listed)));
    }
    let all_valid = found.iter().all(|listed| listed.manifest.is_ok());
    Ok(if all_valid { exit::SUCCESS } else { exit::FOUND })
}

fn verified(Listed { folder, bytes, manifest, .. }: &Listed) -> String {
    match manifest {
        Ok(manifest) => format!("valid    {} ({} files, {})", path(folder), manifest.files.len() + 1, size(*bytes)),
        Err(damage) => format!("damaged  {}: {}", path(folder), printable_line(&damage.to_string())),
    }
}

/// What a snapshot holds.
struct Content {
    model: Vec<TensorInfo>,
    /// Further names of the model's tensors.
    aliases: BTreeMap<String, String>,
    optimizer: Vec<TensorInfo>,
    /// Tensors of other objects.
    states: Vec<TensorInfo>,
}

impl Content {
    fn read(ValidSnapshot { folder, manifest, .. }: &ValidSnapshot) -> Result<Self> {
        let infos = |file: &str| match manifest.files.contains_key(file) {
            true => TensorFile::open(&folder.join(file))?.infos(),
            false => Ok(vec![]),
        };
        let aliases = TensorFile::open(&folder.join(format::MODEL))?.aliases()?;
        let (model, optimizer, states) = (infos(format::MODEL)?, infos(format::OPTIMIZER)?, infos(format::STATES)?);
        Ok(Self { model, aliases, optimizer, states })
    }
}

fn show(args: &SnapshotShow) -> Result<u8> {
    let valid = snapshot::newest_valid(&folder(args.dir.as_deref()))?;
    let content = Content::read(&valid)?;
    let (folder, manifest) = (&valid.folder, &valid.manifest);
    if args.json {
        let Content { model, aliases, optimizer, states } = content;
        let value = json!({
            "folder": folder.to_string_lossy(), "epoch": manifest.epoch, "step": manifest.step, "world_size": manifest.world_size,
            "samples_in_epoch": manifest.samples_in_epoch, "metric": manifest.metric, "model": model,
            "aliases": aliases,
            "optimizer": optimizer, "states": manifest.states, "state_tensors": states,
            "bucket_order": manifest.bucket_order, "files": manifest.files,
        });
        print_json(&value)?;
    } else {
        description(folder, manifest, &content).iter().for_each(|line| println!("{line}"));
    }
    Ok(exit::SUCCESS)
}

fn description(folder: &Path, manifest: &Manifest, content: &Content) -> Vec<String> {
    let Content { model, aliases, optimizer, states } = content;
    let samples = match manifest.samples_in_epoch {
        0 => String::new(),
        samples => format!(", {samples} samples into it"),
    };
    let workers = if manifest.world_size == 1 { "1 worker".into() } else { format!("{} workers", manifest.world_size) };
    let mut lines = vec![
        path(folder),
        format!("step {}, resumes with epoch {}{samples}; {workers}", manifest.step, manifest.epoch),
    ];
    lines.extend(manifest.metric.map(|metric| format!("metric: {}", number(metric))));
    lines.push(String::new());
    lines.extend(tensor_lines("model", model));
    lines.extend(
        aliases
            .iter()
            .map(|(alias, name)| format!("  {}: the same tensor as {}", printable_line(alias), printable_line(name))),
    );
    if is_model_only(manifest) {
        lines.push("no optimizer: a run that resumes from it gets the model's weights only".into());
    } else {
        lines.push(format!("optimizer: {} in {}", tensors(optimizer.len()), size(bytes(optimizer))));
        let by_state = by_state(optimizer).into_iter();
        lines.extend(by_state.map(|(state, count)| format!("  {} of {count} parameters", printable_line(state))));
    }
    if !states.is_empty() {
        lines.extend(tensor_lines("other tensors", states));
    }
    for (name, state) in &manifest.states {
        let name = name.strip_prefix("value.").map_or(name.clone(), |name| format!("value {name}"));
        lines.push(format!("{}: {}", printable_line(&name), printable_line(&state.to_string())));
    }
    lines
}

fn tensor_lines(what: &str, infos: &[TensorInfo]) -> Vec<String> {
    let rows: Vec<_> = infos.iter().map(tensor_row).collect();
    let head = format!("{what}: {} in {}", tensors(infos.len()), size(bytes(infos)));
    std::iter::once(head).chain(table(&rows, &[3]).into_iter().map(|line| format!("  {line}"))).collect()
}

fn tensors(count: usize) -> String {
    if count == 1 { "1 tensor".into() } else { format!("{count} tensors") }
}

fn bytes(infos: &[TensorInfo]) -> u64 {
    infos.iter().map(|info| info.bytes as u64).sum()
}

fn tensor_row(info: &TensorInfo) -> [String; 4] {
    [info.name.clone(), info.dtype.clone(), format!("{:?}", info.shape), size(info.bytes as u64)]
}

/// How many parameters have each kind of state; a state's name is the last word of its tensor's.
fn by_state(optimizer: &[TensorInfo]) -> BTreeMap<&str, usize> {
    let mut states = BTreeMap::new();
    for info in optimizer {
        *states.entry(info.name.rsplit('.').next().unwrap_or_default()).or_default() += 1;
    }
    states
}

fn diff(args: &SnapshotDiff) -> Result<u8> {
    let (a, b) = (files(&args.a)?, files(&args.b)?);
    let mut compared: BTreeMap<&str, Comparison> = BTreeMap::new();
    for (name, path) in &a {
        if let Some(other) = b.get(name) {
            compared.insert(*name, snapshot::compare(&TensorFile::open(path)?, &TensorFile::open(other)?)?);
        }
    }
    let only_one: Vec<_> =
        a.keys().filter(|name| !b.contains_key(*name)).chain(b.keys().filter(|n| !a.contains_key(*n))).collect();
    // A single file is a model: a missing optimizer is not a difference.
    let both_snapshots = args.a.is_dir() && args.b.is_dir();
    let same = compared.values().all(|c| c.changes.is_empty()) && (only_one.is_empty() || !both_snapshots);
    let code = if same { exit::SUCCESS } else { exit::FOUND };
    if args.json {
        let compared: BTreeMap<_, _> =
            compared.iter().map(|(name, comparison)| (*name, comparison_json(comparison))).collect();
        print_json(&json!({ "same": same, "files": compared }))?;
        return Ok(code);
    }
    for (name, comparison) in &compared {
        let Comparison { equal, changes } = comparison;
        println!("{name}: {} equal, {} differ", tensors(*equal), changes.len());
        let rows: Vec<_> = changes.iter().map(|(name, change)| [name.clone(), words(change)]).collect();
        for line in table(&rows, &[]) {
            println!("  {line}");
        }
    }
    if both_snapshots {
        for name in only_one {
            println!("{name}: in one of them only");
        }
    }
    Ok(code)
}

/// The files of tensors that a path means: a snapshot's, or itself as a model.
fn files(path: &Path) -> Result<BTreeMap<&'static str, PathBuf>> {
    if !path.is_dir() {
        return Ok(BTreeMap::from([("model", path.to_owned())]));
    }
    let valid = snapshot::newest_valid(path)?;
    let files = [("model", format::MODEL), ("optimizer", format::OPTIMIZER), ("other tensors", format::STATES)];
    let there = files.into_iter().filter(|(_, file)| valid.manifest.files.contains_key(*file));
    Ok(there.map(|(name, file)| (name, valid.folder.join(file))).collect())
}

fn words(change: &Change) -> String {
    match change {
        Change::Added { is } => format!("added: {is}"),
        Change::Removed { was } => format!("removed: {was}"),
        Change::Reshaped { was, is } => format!("was {was}, is {is}"),
        Change::Changed { elements, of, max_abs } => {
            let most = max_abs.map_or_else(String::new, |most| format!(" by at most {}", number(most)));
            format!("{elements} of {of} differ{most}")
        }
    }
}

fn comparison_json(comparison: &Comparison) -> Value {
    let changes: serde_json::Map<String, Value> = comparison
        .changes
        .iter()
        .map(|(name, change)| (name.clone(), serde_json::to_value(change).unwrap_or_default()))
        .collect();
    json!({ "equal": comparison.equal, "changes": changes })
}

fn prune(args: &SnapshotPrune, ui: &Ui) -> Result<u8> {
    let pruned = snapshot::prune(&folder(args.dir.as_deref()), args.retention(), args.dry_run)?;
    let verb = if args.dry_run { "would remove" } else { "removed" };
    for (folder, bytes) in &pruned.removed {
        println!("{verb} {} ({})", path(folder), size(*bytes));
    }
    for (folder, damage) in &pruned.damaged {
        ui.warn(format!("skipping {}: {damage}", folder.display()));
    }
    for link in &pruned.links {
        ui.warn(format!("skipping {}: it is a link", link.display()));
    }
    for (folder, err) in &pruned.stuck {
        ui.warn(format!("can't remove {}: {err}", folder.display()));
    }
    let bytes = pruned.removed.iter().map(|(_, bytes)| bytes).sum();
    println!("{verb} {}, {}; {} remain", count(pruned.removed.len()), size(bytes), pruned.kept.len());
    Ok(if pruned.stuck.is_empty() { exit::SUCCESS } else { exit::SYSTEM })
}

fn count(snapshots: usize) -> String {
    if snapshots == 1 { "1 snapshot".into() } else { format!("{snapshots} snapshots") }
}

fn export(args: &SnapshotExport, ui: &Ui) -> Result<u8> {
    let valid = snapshot::newest_valid(&folder(args.dir.as_deref()))?;
    let written = snapshot::export(&valid, &names(args.names.as_deref())?, &args.to)?;
    ui.status("Exported", format!("{} of {}", tensors(written), valid.folder.display()));
    // Not into the exported file, if that is a link to stdout.
    if args.to.is_file() {
        println!("{}", path(&args.to));
    }
    Ok(exit::SUCCESS)
}

fn import(args: &SnapshotImport, ui: &Ui) -> Result<u8> {
    let imported = snapshot::import(&args.file, &names(args.names.as_deref())?, &args.to)?;
    let (count, file) = (tensors(imported.tensors), args.file.display());
    if let Some(files) = imported.shard_of {
        ui.warn(format!(
            "by its name, {file} is one of {files} files of a model: a run needs the tensors of all files"
        ));
    }
    let counters = "counters of PyTorch's BatchNorm, which tch's does not have";
    match imported.left_out.as_slice() {
        [] => {}
        [name] => ui.status("Left out", format!("{name}: {counters}")),
        [first, ..] => ui.status("Left out", format!("{first} and {} more: {counters}", imported.left_out.len() - 1)),
    }
    ui.status("Imported", format!("{count} of {file}; a run with these snapshots starts from them"));
    println!("{}", path(&imported.folder));
    Ok(exit::SUCCESS)
}

fn names(path: Option<&Path>) -> Result<Names, Error> {
    path.map_or(Ok(Names::default()), Names::read)
}

#[cfg(test)]
mod tests;
