//! Which GPUs a job gets: `--gpus LIST`, checked against what there is and against what the environment grants.

use super::gpu::Gpu;
use super::nvml;
use crate::{Error, Result};

/// A GPU, or a MIG instance, that CUDA can use.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Choice {
    gpu: u32,
    /// Set for an instance of a divided GPU.
    mig: Option<String>,
    /// As CUDA_VISIBLE_DEVICES takes it.
    value: String,
}

/// The GPUs of `--gpus LIST`, as values for CUDA_VISIBLE_DEVICES, one for each worker: numbers (`2`), ranges (`0-3`),
/// `all`, UUIDs (`GPU-…`, or as much of one as is unique) and MIG instances (`MIG-…`). `visible` is an outer
/// CUDA_VISIBLE_DEVICES, which is a limit.
///
/// # Errors
/// [`Error::BadGpuList`], [`Error::NoSuchGpu`], [`Error::GpuNotVisible`].
pub fn select(list: &str, gpus: &[Gpu], visible: Option<&str>) -> Result<Vec<String>> {
    let bad = |problem: String| Error::BadGpuList { list: list.to_owned(), problem };
    let allowed = granted(gpus, visible);
    let mut chosen: Vec<Choice> = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let entries = match entry {
            "" => return Err(bad("an entry is empty".into())),
            "all" => allowed.clone(),
            _ => parse(entry, gpus).map_err(|problem| match problem {
                Problem::Bad(problem) => bad(problem),
                Problem::Missing(missing) => Error::NoSuchGpu { missing, present: names(gpus) },
            })?,
        };
        for choice in entries {
            let within = |outer: &Choice| outer == &choice || outer.gpu == choice.gpu && outer.mig.is_none();
            if !allowed.iter().any(|outer| within(outer) || outer.gpu == choice.gpu && outer.mig == choice.mig) {
                return Err(Error::GpuNotVisible {
                    gpu: choice.value,
                    visible: visible.unwrap_or_default().to_owned(),
                });
            }
            if chosen.iter().any(|other| (other.gpu, &other.mig) == (choice.gpu, &choice.mig)) {
                return Err(bad(format!("GPU {} is listed twice", choice.value)));
            }
            chosen.push(choice);
        }
    }
    if chosen.is_empty() {
        return Err(Error::NoSuchGpu { missing: list.to_owned(), present: names(gpus) });
    }
    Ok(values(chosen, gpus))
}

/// The number of workers that `--gpus LIST` starts. This machine need not have these GPUs, except for `all`.
///
/// # Errors
/// [`Error::BadGpuList`]; for `all`, what [`list`](super::list) fails with.
pub fn count(list: &str) -> Result<usize> {
    let bad = |problem: String| Error::BadGpuList { list: list.to_owned(), problem };
    let mut count = 0;
    let mut seen = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        count += match (entry, first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            ("", ..) => return Err(bad("an entry is empty".into())),
            ("all", ..) => nvml::list()?.len(),
            (_, Ok(first), Ok(last)) if first <= last => {
                if let Some(twice) = (first..=last).find(|gpu| seen.contains(gpu)) {
                    return Err(bad(format!("GPU {twice} is listed twice")));
                }
                seen.extend(first..=last);
                usize::from(last - first) + 1
            }
            (_, Ok(_), Ok(_)) => return Err(bad(format!("range `{entry}` is reversed"))),
            _ if entry.starts_with("GPU-") || entry.starts_with("MIG-") => 1,
            _ => return Err(bad(format!("`{entry}` is not a GPU number, a range, `all` or a UUID"))),
        };
    }
    if (1..=4096).contains(&count) { Ok(count) } else { Err(bad(format!("expected 1 to 4096 GPUs, got {count}"))) }
}

/// All GPUs that a job may use: those of an outer CUDA_VISIBLE_DEVICES, else all.
pub fn available(gpus: &[Gpu], visible: Option<&str>) -> Vec<String> {
    values(granted(gpus, visible), gpus)
}

enum Problem {
    Bad(String),
    Missing(String),
}

fn parse(entry: &str, gpus: &[Gpu]) -> Result<Vec<Choice>, Problem> {
    if entry.starts_with("GPU-") || entry.starts_with("MIG-") {
        return by_uuid(entry, gpus).map(|choice| vec![choice]);
    }
    let not_one = || Problem::Bad(format!("`{entry}` is not a GPU number, a range, `all` or a UUID"));
    let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
    let (first, last): (u32, u32) =
        (first.trim().parse().map_err(|_| not_one())?, last.trim().parse().map_err(|_| not_one())?);
    if first > last {
        return Err(Problem::Bad(format!("range `{entry}` is reversed")));
    }
    (first..=last).map(|index| by_index(index, gpus).ok_or_else(|| Problem::Missing(index.to_string()))).collect()
}

fn by_index(index: u32, gpus: &[Gpu]) -> Option<Choice> {
    let gpu = gpus.iter().find(|gpu| gpu.index == index)?;
    Some(Choice { gpu: gpu.index, mig: None, value: index.to_string() })
}

fn by_uuid(entry: &str, gpus: &[Gpu]) -> Result<Choice, Problem> {
    let whole = gpus.iter().filter_map(|gpu| Some((gpu.index, None, gpu.uuid.as_ref()?)));
    let parts = gpus.iter().flat_map(|gpu| gpu.mig.iter().map(move |mig| (gpu.index, Some(mig.clone()), mig)));
    let found: Vec<_> = whole.chain(parts).filter(|(_, _, uuid)| uuid.starts_with(entry)).collect();
    match found.as_slice() {
        [(gpu, mig, uuid)] => Ok(Choice { gpu: *gpu, mig: mig.clone(), value: (*uuid).clone() }),
        [] => Err(Problem::Missing(entry.to_owned())),
        _ => Err(Problem::Bad(format!("`{entry}` matches several UUIDs"))),
    }
}

/// The GPUs that an outer CUDA_VISIBLE_DEVICES grants. Like CUDA, this stops at the first entry that is not a GPU.
fn granted(gpus: &[Gpu], visible: Option<&str>) -> Vec<Choice> {
    let Some(visible) = visible else {
        return gpus.iter().filter_map(|gpu| by_index(gpu.index, gpus)).collect();
    };
    let entries = visible.split(',').map(str::trim).map_while(|entry| match entry.parse() {
        Ok(index) => by_index(index, gpus),
        Err(_) if entry.is_empty() => None,
        Err(_) => by_uuid(entry, gpus).ok(),
    });
    entries.collect()
}

/// One kind of name for all, since CUDA does not mix them.
fn values(chosen: Vec<Choice>, gpus: &[Gpu]) -> Vec<String> {
    let numbers = chosen.iter().all(|choice| choice.value.parse::<u32>().is_ok());
    let uuid = |choice: &Choice| gpus.iter().find(|gpu| gpu.index == choice.gpu)?.uuid.clone();
    chosen
        .into_iter()
        .map(|choice| match (&choice.mig, numbers) {
            (None, false) => uuid(&choice).unwrap_or(choice.value),
            _ => choice.value,
        })
        .collect()
}

fn names(gpus: &[Gpu]) -> Vec<String> {
    gpus.iter().map(|gpu| gpu.index.to_string()).chain(gpus.iter().flat_map(|gpu| gpu.mig.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// GPU 1 is divided in two.
    fn machine(count: u32) -> Vec<Gpu> {
        let gpu = |index| Gpu {
            index,
            uuid: Some(format!("GPU-{index}0e4b")),
            mig: if index == 1 && count > 1 { vec!["MIG-a1".into(), "MIG-b2".into()] } else { vec![] },
            ..Gpu::default()
        };
        (0..count).map(gpu).collect()
    }

    fn four(list: &str, visible: Option<&str>) -> Vec<String> {
        select(list, &machine(4), visible).unwrap()
    }

    #[test]
    fn gpu_list_keeps_its_order() {
        assert_eq!(four("2,3", None), ["2", "3"]);
        assert_eq!(four("3, 0", Some("3,1,0")), ["3", "0"]);
    }

    #[test]
    fn gpu_list_accepts_ranges_all_and_uuids() {
        assert_eq!(four("0-2", None), ["0", "1", "2"]);
        assert_eq!(four("3,0-1", None), ["3", "0", "1"]);
        assert_eq!(four("all", None), ["0", "1", "2", "3"]);
        assert_eq!(four("all", Some("3,1")), ["3", "1"]);
        assert_eq!(four("GPU-20", None), ["GPU-20e4b"]);
        // CUDA takes one kind of name only.
        assert_eq!(four("0,GPU-20e4b", None), ["GPU-00e4b", "GPU-20e4b"]);
        assert_eq!(four("MIG-a1,MIG-b2", None), ["MIG-a1", "MIG-b2"]);
        assert_eq!(four("2", Some("GPU-20e4b,GPU-30e4b")), ["2"]);
        assert_eq!(four("MIG-a1", Some("MIG-a1")), ["MIG-a1"]);
        assert_eq!(four("MIG-a1", Some("1")), ["MIG-a1"]);
    }

    #[test]
    fn gpu_list_refuses_unknown_gpus() {
        let message = |list, count, visible| select(list, &machine(count), visible).unwrap_err().to_string();
        assert_eq!(message("2,4", 4, None), "GPU 4 not found (available: 0, 1, 2, 3, MIG-a1, MIG-b2)");
        assert_eq!(message("2-4", 4, None), "GPU 4 not found (available: 0, 1, 2, 3, MIG-a1, MIG-b2)");
        assert_eq!(message("1", 1, None), "GPU 1 not found (available: 0)");
        assert_eq!(message("0", 0, None), "GPU 0 not found (available: none)");
        assert_eq!(message("all", 0, None), "GPU all not found (available: none)");
        assert_eq!(message("2,2", 4, None), "--gpus: invalid value `2,2`: GPU 2 is listed twice");
        assert_eq!(message("2,1-3", 4, None), "--gpus: invalid value `2,1-3`: GPU 2 is listed twice");
        assert_eq!(message("2,GPU-2", 4, None), "--gpus: invalid value `2,GPU-2`: GPU GPU-20e4b is listed twice");
        assert_eq!(message("2,", 4, None), "--gpus: invalid value `2,`: an entry is empty");
        assert_eq!(message("3-1", 4, None), "--gpus: invalid value `3-1`: range `3-1` is reversed");
        let words = "--gpus: invalid value `two`: `two` is not a GPU number, a range, `all` or a UUID";
        assert_eq!(message("two", 4, None), words);
        assert_eq!(message("GPU-", 4, None), "--gpus: invalid value `GPU-`: `GPU-` matches several UUIDs");
        assert!(message("GPU-9", 4, None).starts_with("GPU GPU-9 not found (available: "));
        assert_eq!(message("2", 4, Some("0,1")), "GPU 2 is not in CUDA_VISIBLE_DEVICES=0,1");
        assert!(message("1", 4, Some("MIG-a1")).starts_with("GPU 1 is not in "));
        assert!(message("MIG-b2", 4, Some("MIG-a1")).starts_with("GPU MIG-b2 is not in "));
    }

    #[test]
    fn cuda_visible_devices_is_read_like_cuda_reads_it() {
        let available = |visible| available(&machine(4), visible);
        assert_eq!(available(None), ["0", "1", "2", "3"]);
        assert_eq!(available(Some("2,3")), ["2", "3"]);
        assert_eq!(available(Some("2,-1,3")), ["2"]);
        assert_eq!(available(Some("")), Vec::<String>::new());
        assert_eq!(available(Some("GPU-0,7,1")), ["GPU-00e4b"]);
    }
}
