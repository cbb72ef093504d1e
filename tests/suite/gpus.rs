//! `--gpus`, with and without a driver. Without one, a stub of its library (NVML) simulates four GPUs.

use std::path::Path;

use ddp_tests::{Ddp, Done};
use tempfile::tempdir;

use crate::nvml::stand_in;

fn with_gpus(flags: &[&str], nvml: &Path) -> Ddp {
    Ddp::toy(flags, &["env"]).env("LD_LIBRARY_PATH", nvml)
}

fn has_driver() -> bool {
    Path::new("/proc/driver/nvidia/version").exists()
}

#[test]
fn gpus_2_and_3_are_two_workers_that_see_both() {
    let nvml = stand_in();
    let done = with_gpus(&["--gpus", "2,3"], nvml.path()).run().succeeds();
    done_workers(&done.stdout, &[("0", "2,3"), ("1", "2,3")]);
    done.says(&["2 workers on GPU 2, 3"]);
}

#[test]
fn gpus_without_flags_get_one_worker_each() {
    let nvml = stand_in();
    let all = with_gpus(&[], nvml.path()).run().succeeds();
    done_workers(&all.stdout, &[("0", "0,1,2,3"), ("1", "0,1,2,3"), ("2", "0,1,2,3"), ("3", "0,1,2,3")]);
    let limited = with_gpus(&[], nvml.path()).env("CUDA_VISIBLE_DEVICES", "3,1").run().succeeds();
    done_workers(&limited.stdout, &[("0", "3,1"), ("1", "3,1")]);
}

fn done_workers(stdout: &str, expected: &[(&str, &str)]) {
    let mut found: Vec<(String, String)> = stdout
        .lines()
        .map(|line| {
            let vars: serde_json::Value = serde_json::from_str(line.split_once("] ").unwrap().1).unwrap();
            let get = |name: &str| vars[name].as_str().unwrap().to_owned();
            assert_eq!(get("RANK"), get("LOCAL_RANK"));
            assert_eq!(get("WORLD_SIZE"), expected.len().to_string());
            (get("LOCAL_RANK"), get("CUDA_VISIBLE_DEVICES"))
        })
        .collect();
    found.sort();
    let found: Vec<_> = found.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn unknown_gpus_are_refused_before_the_build() {
    let nvml = stand_in();
    let refused = |flags: &[&str], visible: Option<&str>| {
        // A package that does not exist: the build would fail with 101.
        let args = ["run", "-p", "no-such-package"];
        let mut ddp = Ddp::new(args.iter().chain(flags)).env("LD_LIBRARY_PATH", nvml.path());
        if let Some(visible) = visible {
            ddp = ddp.env("CUDA_VISIBLE_DEVICES", visible);
        }
        ddp.run().ends_with(2)
    };
    refused(&["--gpus", "2,4"], None).says(&["error: GPU 4 not found (available: 0, 1, 2, 3, MIG-0-0e4b", "hint: "]);
    refused(&["--gpus", "2,2"], None).says(&["GPU 2 is listed twice"]);
    refused(&["--gpus", "0"], Some("1")).says(&["GPU 0 is not in CUDA_VISIBLE_DEVICES=1"]);
    refused(&["--nproc", "5"], None).says(&["5 workers need 5 GPUs, but only 4 are available"]);
}

fn visible(flags: &[&str], outer: Option<&str>) -> Done {
    let nvml = stand_in();
    let args =
        ["launch"].iter().chain(flags).chain(&["--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES by $CUDA_DEVICE_ORDER"]);
    let dir = tempdir().unwrap();
    let mut ddp = Ddp::new(args).dir(dir.path()).env("LD_LIBRARY_PATH", nvml.path());
    if let Some(outer) = outer {
        ddp = ddp.env("CUDA_VISIBLE_DEVICES", outer);
    }
    ddp.run().succeeds()
}

#[test]
fn gpus_can_be_chosen_by_range_uuid_and_mig_instance() {
    let lines = |done: &Done| {
        let mut lines: Vec<_> = done.stdout.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(lines(&visible(&["--gpus", "0-1"], None)), ["[rank 0] 0,1 by PCI_BUS_ID", "[rank 1] 0,1 by PCI_BUS_ID"]);
    assert_eq!(lines(&visible(&["--gpus", "all"], Some("2"))), ["[rank 0] 2 by PCI_BUS_ID"]);
    let done = visible(&["--gpus", "GPU-2"], None);
    assert_eq!(lines(&done), ["[rank 0] GPU-2-0e4b by PCI_BUS_ID"]);
    done.says(&["1 worker on GPU GPU-2-0e4b"]);
    let done = visible(&["--gpus", "MIG-0,MIG-1"], None);
    assert_eq!(lines(&done), ["[rank 0] MIG-0-0e4b by PCI_BUS_ID", "[rank 1] MIG-1-0e4b by PCI_BUS_ID"]);
}

#[test]
fn nproc_gpu_and_cpu_are_one_worker_per_gpu_or_per_core() {
    let cores = std::thread::available_parallelism().unwrap().get();
    for word in ["gpu", "auto"] {
        let done = visible(&["--nproc", word], Some("2,3"));
        let mut lines: Vec<_> = done.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["[rank 0] 2,3 by PCI_BUS_ID", "[rank 1] 2,3 by PCI_BUS_ID"], "{word}");
    }
    let done = visible(&["--nproc", "cpu"], None);
    // CUDA_VISIBLE_DEVICES is empty: with CUDA_DEVICE_ORDER, it was set.
    let mut lines: Vec<_> = done.stdout.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    let mut expected: Vec<_> = (0..cores).map(|rank| format!("[rank {rank}] by PCI_BUS_ID")).collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    done.says(&["on the CPU: rank 0"]);
    if !has_driver() {
        let none = Ddp::new(["launch", "--nproc-per-node", "gpu", "--", "true"]).run().ends_with(2);
        none.says(&["error: --nproc: `gpu` starts one worker per GPU, but this machine has no GPU"]);
        let done = Ddp::new(["launch", "--nproc=auto", "--dry-run", "--", "true"]).run().succeeds();
        assert!(done.stdout.contains(&format!("workers: {cores}\n")), "{}", done.stdout);
    }
}

#[test]
fn busy_gpu_is_used_with_a_warning() {
    let done = visible(&["--gpus", "2,3"], None);
    assert!(!done.stderr.contains("GPU 2: "), "{}", done.stderr);
    done.says(&["warning: GPU 3: 10.2 GB of 80.0 GB in use, by ", " (pid 1)"]);
}

#[test]
fn gpus_command_lists_the_gpus() {
    let nvml = stand_in();
    let list = |flags: &[&str]| {
        let ddp = Ddp::new(["gpus"].iter().chain(flags))
            .env("LD_LIBRARY_PATH", nvml.path())
            .env("CUDA_VISIBLE_DEVICES", "0,3");
        ddp.run().succeeds().stdout
    };
    let text = list(&[]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 7, "{text}");
    assert_eq!(lines[0], " 0  Stand-in 9000  GPU-0-0e4b  0.0 GB of 80.0 GB in use");
    assert_eq!(lines[1], " 1  Stand-in 9000  GPU-1-0e4b  0.0 GB of 80.0 GB in use  (not in CUDA_VISIBLE_DEVICES)");
    assert_eq!(lines[3], "      MIG-1-0e4b");
    assert!(lines[6].starts_with("      used by ") && lines[6].ends_with(" (pid 1)  10.0 GB"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&list(&["--json"])).unwrap();
    assert_eq!(json["version"], 1);
    let gpus = &json["gpus"];
    assert_eq!((&gpus[3]["users"][0]["pid"], &gpus[1]["mig"][0]), (&1.into(), &"MIG-0-0e4b".into()));
    if !has_driver() {
        Ddp::new(["gpus"]).run().ends_with(2).says(&["error: can't use GPUs: can't load the NVIDIA driver"]);
    }
}

#[test]
fn bind_gives_each_worker_its_share_of_the_cores() {
    let dir = tempdir().unwrap();
    let args = ["launch", "--nproc", "2", "--bind", "--", "sh", "-c", "grep Cpus_allowed_list /proc/self/status"];
    let done = Ddp::new(args).dir(dir.path()).run().succeeds();
    let cores = |rank: usize| {
        let line = done.stdout.lines().find(|line| line.starts_with(&format!("[rank {rank}]"))).unwrap();
        line.split_whitespace().next_back().unwrap().to_owned()
    };
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert_ne!(cores(0), cores(1));
    }
    done.says(&["Binding rank 0 to CPU", "rank 1 to CPU"]);
}

#[test]
fn gpus_without_a_driver_are_refused() {
    if has_driver() {
        return;
    }
    let done = Ddp::new(["run", "-p", "no-such-package", "--gpus", "0"]).run().ends_with(2);
    done.says(&["error: can't use GPUs: can't load the NVIDIA driver", "hint: `--nproc N` runs N workers"]);
}
