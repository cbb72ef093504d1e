//! Checks of the NVIDIA driver, the GPUs and the access between GPUs, against what libtorch needs.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{P2pCapabilitiesIndex, P2pStatus};

use super::fatbin::{self, Arch};
use super::{Line, Machine};
use crate::machine::gpus::{self as gpu, Gpu};
use crate::os::pci::DEVICES;
use crate::project::libtorch::{CUDA, Flavor, Home};

/// What the NVIDIA driver reports.
#[derive(Debug, Default)]
struct Driver {
    version: Option<String>,
    /// The newest CUDA that it runs.
    cuda: Option<(u32, u32)>,
    gpus: Vec<Gpu>,
    /// By GPU.
    capabilities: Vec<Option<(u32, u32)>>,
    /// Pairs of GPUs.
    peers: Vec<(u32, u32, Peers)>,
}

/// Whether two GPUs read each other's memory.
#[derive(Debug, PartialEq)]
enum Peers {
    Yes,
    /// With the driver's reason.
    No(String),
    /// The driver does not report it.
    Unknown,
}

pub(super) fn examine(machine: &Machine, home: Option<&Home>) -> Vec<Line> {
    let driver = ask();
    let present = nvidia_devices(machine);
    let mut lines = vec![driver_line(driver.as_ref(), present, home.map(Home::flavor))];
    let Some(driver) = driver.filter(|driver| !driver.gpus.is_empty()) else { return lines };
    lines.push(gpus_line(&driver));
    if let Some(home) = home.filter(|home| home.flavor() == Flavor::Cuda) {
        lines.push(capability_line(&driver, fatbin::archs(&home.path().join("lib/libtorch_cuda.so"))));
    }
    if driver.gpus.len() > 1 {
        lines.push(peers_line(&driver));
    }
    lines
}

fn ask() -> Option<Driver> {
    let nvml = Nvml::init().ok()?;
    let gpus = gpu::list().unwrap_or_default();
    let device = |gpu: &Gpu| nvml.device_by_index(gpu.index).ok();
    let capability = |gpu: &Gpu| {
        let found = device(gpu)?.cuda_compute_capability().ok()?;
        Some((u32::try_from(found.major).ok()?, u32::try_from(found.minor).ok()?))
    };
    let mut peers = Vec::new();
    for (i, a) in gpus.iter().enumerate() {
        for b in &gpus[i + 1..] {
            let status = device(a).zip(device(b)).and_then(|(a, b)| a.p2p_status(&b, P2pCapabilitiesIndex::Read).ok());
            let status = match status {
                Some(P2pStatus::Ok) => Peers::Yes,
                Some(P2pStatus::Unknown) | None => Peers::Unknown,
                Some(other) => Peers::No(format!("{other:?}")),
            };
            peers.push((a.index, b.index, status));
        }
    }
    // 13000 is 13.0.
    let cuda = nvml.sys_cuda_driver_version().ok().and_then(|version| u32::try_from(version).ok());
    Some(Driver {
        version: nvml.sys_driver_version().ok(),
        cuda: cuda.map(|version| (version / 1000, version % 1000 / 10)),
        capabilities: gpus.iter().map(capability).collect(),
        gpus,
        peers,
    })
}

/// NVIDIA's devices on the PCI bus, driver or not.
fn nvidia_devices(machine: &Machine) -> usize {
    let entries = std::fs::read_dir(machine.system_path(DEVICES)).into_iter().flatten().flatten();
    let file = |entry: &std::fs::DirEntry, name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
    // Class 03: displays and 3D controllers.
    entries.filter(|entry| file(entry, "vendor").trim() == "0x10de" && file(entry, "class").starts_with("0x03")).count()
}

fn driver_line(driver: Option<&Driver>, devices: usize, flavor: Option<Flavor>) -> Line {
    let check = "NVIDIA driver";
    let Some(driver) = driver else {
        return if devices > 0 {
            let way = "install NVIDIA's driver; in a container, start it with `--gpus all`";
            Line::error(check, format!("found {devices} NVIDIA GPUs, but no working driver"), way)
        } else {
            Line::ok(check, "none, and no GPU: workers train on the CPU")
        };
    };
    let version = driver.version.as_deref().unwrap_or("unknown version");
    match (driver.cuda, flavor) {
        (Some(cuda), Some(Flavor::Cuda)) if cuda < CUDA => {
            let (major, minor) = cuda;
            let says =
                format!("{version} supports CUDA up to {major}.{minor}, but this libtorch needs {}.{}", CUDA.0, CUDA.1);
            Line::error(check, says, "install a newer driver, or use the CPU: `cargo ddp setup --cpu`")
        }
        (_, Some(Flavor::Cpu)) if !driver.gpus.is_empty() => Line::warning(
            check,
            format!("{version}, but the libtorch in use has no CUDA"),
            "`cargo ddp setup --cuda` fetches a libtorch with CUDA",
        ),
        (Some((major, minor)), _) => Line::ok(check, format!("{version}, supports CUDA up to {major}.{minor}")),
        (None, _) => Line::ok(check, version),
    }
}

fn gpus_line(driver: &Driver) -> Line {
    let check = "GPUs";
    let busy = driver.gpus.iter().find_map(|gpu| Some((gpu.index, gpu.busy()?)));
    let names = driver.gpus.iter().map(|gpu| gpu.name.clone().unwrap_or_else(|| "a GPU".into()));
    let names = names.fold(Vec::<(String, usize)>::new(), |mut names, name| {
        match names.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => names.push((name, 1)),
        }
        names
    });
    let names: Vec<_> = names.into_iter().map(|(name, count)| format!("{count} x {name}")).collect();
    match busy {
        None => Line::ok(check, names.join(", ")),
        Some((index, words)) => {
            let says = format!("{}; GPU {index}: {words}", names.join(", "));
            Line::warning(check, says, "choose other GPUs with `--gpus`; `cargo ddp gpus` lists them")
        }
    }
}

fn capability_line(driver: &Driver, archs: Result<Vec<Arch>, String>) -> Line {
    let check = "compute capability";
    let way = "use other GPUs (`--gpus`), or a libtorch that is built for these GPUs";
    let archs = match archs {
        Ok(archs) if !archs.is_empty() => archs,
        Ok(_) => return Line::warning(check, "unknown targets of this libtorch", way),
        Err(problem) => {
            return Line::warning(check, format!("unknown targets of this libtorch: {problem}"), way);
        }
    };
    let built: Vec<_> = archs.iter().map(|arch| arch.name()).collect();
    let unfit = driver.gpus.iter().zip(&driver.capabilities).find_map(|(gpu, capability)| {
        let capability = (*capability)?;
        (!archs.iter().any(|arch| arch.runs_on(capability))).then_some((gpu.index, capability))
    });
    if let Some((index, (major, minor))) = unfit {
        let says = format!("GPU {index} has {major}.{minor}, but this libtorch is built for {}", built.join(", "));
        return Line::error(check, says, way);
    }
    let known: Vec<_> = driver.capabilities.iter().flatten().map(|(major, minor)| format!("{major}.{minor}")).collect();
    if known.is_empty() {
        return Line::warning(
            check,
            format!("the driver does not report it; this libtorch is built for {}", built.join(", ")),
            way,
        );
    }
    Line::ok(check, format!("{}; this libtorch is built for {}", known.join(", "), built.join(", ")))
}

fn peers_line(driver: &Driver) -> Line {
    let check = "peer access";
    let without: Vec<_> = driver
        .peers
        .iter()
        .filter_map(|(a, b, status)| match status {
            Peers::No(problem) => Some((a, b, problem)),
            _ => None,
        })
        .collect();
    if let Some((a, b, problem)) = without.first() {
        let says = format!(
            "{} of {} pairs of GPUs have none, such as {a} and {b} ({problem})",
            without.len(),
            driver.peers.len()
        );
        let way = "NCCL copies through host memory, which is slower; `nvidia-smi topo -p2p r` shows which GPUs have peer access";
        return Line::warning(check, says, way);
    }
    if driver.peers.iter().any(|(_, _, status)| *status == Peers::Unknown) {
        return Line::ok(check, "unknown: the driver does not report it");
    }
    Line::ok(check, "every pair of GPUs can read each other's memory")
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::line::text;
    use super::super::machine::tests::Bare;
    use super::*;
    use crate::snap::assert_text;

    fn two(capability: (u32, u32)) -> Driver {
        let gpu = |index| Gpu { index, name: Some("H100".into()), ..Gpu::default() };
        Driver {
            version: Some("580.65".into()),
            cuda: Some((13, 0)),
            gpus: vec![gpu(0), gpu(1)],
            capabilities: vec![Some(capability); 2],
            peers: vec![(0, 1, Peers::Yes)],
        }
    }

    #[test]
    fn driver_is_needed_for_gpus_and_must_be_new_enough_for_libtorch() {
        let bare = Bare::new();
        assert_eq!(nvidia_devices(&bare.machine), 0);
        bare.write("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n");
        bare.write("sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n");
        bare.write("sys/bus/pci/devices/0000:01:00.1/vendor", "0x10de\n");
        bare.write("sys/bus/pci/devices/0000:01:00.1/class", "0x040300\n");
        assert_eq!(nvidia_devices(&bare.machine), 1);

        let level = |driver: Option<&Driver>, devices, flavor| driver_line(driver, devices, flavor).level;
        assert_eq!(level(None, 0, Some(Flavor::Cpu)), Level::Ok);
        assert_eq!(level(None, 2, None), Level::Error);
        assert_eq!(level(Some(&two((9, 0))), 2, Some(Flavor::Cuda)), Level::Ok);
        assert_eq!(level(Some(&two((9, 0))), 2, Some(Flavor::Cpu)), Level::Warning);
        let old = Driver { cuda: Some((12, 4)), ..two((9, 0)) };
        let line = driver_line(Some(&old), 2, Some(Flavor::Cuda));
        assert_eq!(
            (line.level, line.says.as_str()),
            (Level::Error, "580.65 supports CUDA up to 12.4, but this libtorch needs 13.0")
        );
    }

    #[test]
    fn gpus_that_libtorch_has_no_code_for_are_named() {
        let archs = || Ok(vec![Arch { number: 80, ptx: false }, Arch { number: 90, ptx: false }]);
        assert_eq!(capability_line(&two((9, 0)), archs()).level, Level::Ok);
        let line = capability_line(&two((7, 0)), archs());
        assert_eq!(line.level, Level::Error);
        assert_eq!(line.says, "GPU 0 has 7.0, but this libtorch is built for sm_80, sm_90");
        assert_eq!(capability_line(&two((9, 0)), Err("no".into())).level, Level::Warning);
    }

    #[test]
    fn peer_access_line_counts_pairs_without_it() {
        assert_eq!(peers_line(&two((9, 0))).level, Level::Ok);
        let none = Driver {
            peers: vec![(0, 1, Peers::No("ChipsetNotSupported".into())), (0, 2, Peers::Unknown)],
            ..two((9, 0))
        };
        let line = peers_line(&none);
        assert_eq!(
            (line.level, line.says.as_str()),
            (Level::Warning, "1 of 2 pairs of GPUs have none, such as 0 and 1 (ChipsetNotSupported)")
        );
        assert!(peers_line(&Driver { peers: vec![(0, 1, Peers::Unknown)], ..two((9, 0)) }).says.starts_with("unknown"));
    }

    #[test]
    fn gpus_line_counts_equal_gpus_and_names_busy_ones() {
        assert_eq!(gpus_line(&two((9, 0))), Line::ok("GPUs", "2 x H100"));
        let mut busy = two((9, 0));
        busy.gpus[1].users = vec![gpu::User { pid: 7, program: Some("python3".into()), memory: None }];
        let line = gpus_line(&busy);
        assert!(
            line.level == Level::Warning && line.says.contains("GPU 1: in use") && line.says.contains("pid 7"),
            "{line:?}"
        );
    }

    #[test]
    fn gpu_lines_match_their_snapshot() {
        let new = two((9, 0));
        let old = Driver { cuda: Some((12, 4)), ..two((9, 0)) };
        let unknown = Driver { version: None, cuda: None, capabilities: vec![None; 2], ..two((9, 0)) };
        let mut busy = two((9, 0));
        busy.gpus[1].users = vec![gpu::User { pid: 7, program: Some("python3".into()), memory: None }];
        let without = |peers| Driver { peers: vec![(0, 1, peers)], ..two((9, 0)) };
        let archs = |numbers: &[u32]| Ok(numbers.iter().map(|&number| Arch { number, ptx: false }).collect());
        let lines = [
            driver_line(None, 0, None),
            driver_line(None, 2, None),
            driver_line(Some(&new), 2, Some(Flavor::Cuda)),
            driver_line(Some(&new), 2, Some(Flavor::Cpu)),
            driver_line(Some(&old), 2, Some(Flavor::Cuda)),
            driver_line(Some(&unknown), 2, None),
            gpus_line(&new),
            gpus_line(&busy),
            capability_line(&new, archs(&[80, 90])),
            capability_line(&new, archs(&[80])),
            capability_line(&new, archs(&[])),
            capability_line(&new, Err("no section .nv_fatbin".into())),
            capability_line(&unknown, archs(&[80, 90])),
            peers_line(&new),
            peers_line(&without(Peers::No("ChipsetNotSupported".into()))),
            peers_line(&without(Peers::Unknown)),
        ];
        assert_text!("gpu", text(&lines, std::path::Path::new("/no/folder")));
    }
}
