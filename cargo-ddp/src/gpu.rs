//! The machine's GPUs, through NVML.

use std::collections::HashSet;

use nvml_wrapper::Nvml;

use crate::{Error, Result};

/// Whether an NVIDIA driver is loaded.
pub fn driver_present() -> bool {
    Nvml::init().is_ok()
}

/// The number of GPUs that the driver knows.
///
/// # Errors
/// [`Error::NoDriver`].
pub fn count() -> Result<u32> {
    let nvml = Nvml::init().map_err(|err| Error::NoDriver(format!("no NVIDIA driver answers ({err})")))?;
    nvml.device_count().map_err(|err| Error::NoDriver(format!("the NVIDIA driver does not list them ({err})")))
}

/// Which GPUs a job may use: the value for CUDA_VISIBLE_DEVICES, one entry per worker.
pub type Gpus = Vec<String>;

/// The GPUs of `--gpus LIST`, checked against what there is (`count`) and against an outer CUDA_VISIBLE_DEVICES.
///
/// # Errors
/// [`Error::BadGpuList`], [`Error::NoSuchGpu`], [`Error::GpuNotVisible`].
pub fn select(list: &str, count: u32, visible: Option<&str>) -> Result<Gpus> {
    let bad = |problem: String| Error::BadGpuList { list: list.to_owned(), problem };
    let allowed = available(count, visible);
    let mut chosen = Vec::new();
    let mut seen = HashSet::new();
    for entry in list.split(',').map(str::trim) {
        let index: u32 = entry.parse().map_err(|_| {
            bad(if entry.is_empty() {
                "an entry is empty".into()
            } else {
                format!("{entry:?} is not the number of a GPU")
            })
        })?;
        if index >= count {
            return Err(Error::NoSuchGpu {
                missing: index.to_string(),
                present: (0..count).map(|i| i.to_string()).collect(),
            });
        }
        let gpu = index.to_string();
        if !allowed.contains(&gpu) {
            return Err(Error::GpuNotVisible { gpu, visible: visible.unwrap_or_default().to_owned() });
        }
        if !seen.insert(index) {
            return Err(bad(format!("GPU {index} is there twice")));
        }
        chosen.push(gpu);
    }
    Ok(chosen)
}

/// All GPUs that a job may use: those of an outer CUDA_VISIBLE_DEVICES (as CUDA reads it: up to the first entry that is
/// no GPU), else all.
pub fn available(count: u32, visible: Option<&str>) -> Gpus {
    match visible {
        None => (0..count).map(|index| index.to_string()).collect(),
        Some(list) => list
            .split(',')
            .map(str::trim)
            // UUIDs are taken on trust.
            .take_while(|entry| {
                entry.parse::<u32>().map_or(entry.contains("GPU-") || entry.contains("MIG-"), |i| i < count)
            })
            .map(str::to_owned)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_keeps_its_order() {
        assert_eq!(select("2,3", 4, None).unwrap(), ["2", "3"]);
        assert_eq!(select("3, 0", 4, Some("3,1,0")).unwrap(), ["3", "0"]);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let message = |list, count, visible| select(list, count, visible).unwrap_err().to_string();
        assert_eq!(message("2,4", 4, None), "there is no GPU 4; there are 0, 1, 2, 3");
        assert_eq!(message("1", 1, None), "there is no GPU 1; there is only 0");
        assert_eq!(message("0", 0, None), "there is no GPU 0; there are none");
        assert_eq!(message("2,2", 4, None), r#"--gpus "2,2": GPU 2 is there twice"#);
        assert_eq!(message("2,", 4, None), r#"--gpus "2,": an entry is empty"#);
        assert_eq!(message("two", 4, None), r#"--gpus "two": "two" is not the number of a GPU"#);
        assert_eq!(message("2", 4, Some("0,1")), "GPU 2 is not among CUDA_VISIBLE_DEVICES=0,1, which limits this job");
    }

    #[test]
    fn an_outer_list_is_read_as_cuda_does() {
        assert_eq!(available(4, None), ["0", "1", "2", "3"]);
        assert_eq!(available(4, Some("2,3")), ["2", "3"]);
        assert_eq!(available(4, Some("2,-1,3")), ["2"]);
        assert_eq!(available(4, Some("")), Vec::<String>::new());
        assert_eq!(available(4, Some("GPU-0e4b,7,1")), ["GPU-0e4b"]);
    }
}
