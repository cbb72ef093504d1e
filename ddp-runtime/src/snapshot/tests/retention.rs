//! Which snapshots are removed and replaced.

use super::*;

fn steps(dir: &Path) -> Vec<u64> {
    format::list(dir).unwrap().iter().filter_map(|folder| format::step_of(folder)).collect()
}

fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(file, bytes).unwrap();
}

#[test]
fn keep_last_counts_valid_snapshots_only() {
    let (mut run, dir) = saved();
    let save = |snapshots: &mut Snapshots, run: &mut Run, step| {
        run.save(snapshots, Progress { step, ..AT }).unwrap();
        snapshots.wait_until_written().unwrap();
    };
    save(&mut run.open(dir.path()), &mut run, 64);
    flip(&dir.path().join("step-00000064").join(format::MODEL));
    let mut snapshots = run.open(dir.path()).keep_last(1);
    let Run { vs, optimizer, .. } = &mut run;
    assert_eq!(snapshots.resume(vs, &mut bare(optimizer)).unwrap(), Some(AT));
    save(&mut snapshots, &mut run, 50);
    assert_eq!(steps(dir.path()), [64, 50], "the damaged one is left alone, and does not count");
    save(&mut snapshots, &mut run, 60);
    assert_eq!(steps(dir.path()), [64, 60]);
    // Damaged after this process has written it.
    flip(&dir.path().join("step-00000060").join(format::OPTIMIZER));
    save(&mut snapshots, &mut run, 61);
    flip(&dir.path().join("step-00000061").join(format::MODEL));
    save(&mut snapshots, &mut run, 62);
    assert_eq!(steps(dir.path()), [64, 62], "older than what stays");
    flip(&dir.path().join("step-00000062").join(format::MODEL));
    save(&mut snapshots, &mut run, 61);
    assert_eq!(steps(dir.path()), [64, 62, 61], "62 was looked at again");
    save(&mut snapshots, &mut run, 64);
    assert_eq!(steps(dir.path()), [64], "the damaged one is replaced, and older than it is the other");
}

#[test]
fn keep_last_keeps_the_most_recently_written_and_what_latest_points_to() {
    let (mut run, dir) = saved(); // step 41
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let mut save = |step| run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    // A run that has not resumed begins at lower steps.
    save(1);
    assert_eq!(steps(dir.path()), [41, 1]);
    save(2);
    assert_eq!(steps(dir.path()), [41, 2]);
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    link("step-00000041", "best");
    link("step-00000002", "step-00000099");
    save(50);
    assert_eq!(steps(dir.path()), [99, 50, 41, 2], "a link does not count, and its target stays");
    let model = dir.path().join("step-00000050").join(format::MODEL);
    fs::remove_file(dir.path().join("best")).unwrap();
    fs::remove_file(&model).unwrap();
    link("../step-00000041/model.safetensors", "step-00000050/model.safetensors");
    snapshots = run.open(dir.path()).keep_last(2).blocking(true);
    run.save(&mut snapshots, Progress { step: 51, ..AT }).unwrap();
    assert_eq!(steps(dir.path()), [99, 51, 50, 41, 2], "50 needs a file of 41");
}

#[test]
fn keep_every_keeps_one_for_so_many_steps() {
    let (mut run, dir) = saved(); // step 41
    let mut snapshots = run.open(dir.path()).keep_every(20).blocking(true);
    for step in [50, 60, 62, 70, 81, 90] {
        run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    }
    assert_eq!(steps(dir.path()), [90, 81, 60, 41]);
    let mut snapshots = run.open(dir.path()).keep_every(0).blocking(true);
    run.save(&mut snapshots, Progress { step: 91, ..AT }).unwrap();
    assert_eq!(steps(dir.path()), [91, 90, 81, 60, 41], "0 removes nothing");
}

#[test]
fn statistics_that_are_nan_are_noticed() {
    let (mut run, dir) = saved();
    let mut statistics = run.vs.root().zeros_no_train("running_var", &[2]);
    let mut mask = run.vs.root().zeros_no_train("mask", &[2]);
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let mut save = |step| {
        run.context.report(crate::StepReport::new(0, step).loss(1.0));
        run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    };
    let _ = mask.fill_(f64::NEG_INFINITY);
    save(42);
    assert_eq!(steps(dir.path()), [42], "a mask may hold infinite values");
    let _ = statistics.fill_(f64::NAN);
    save(43);
    save(44);
    assert_eq!(steps(dir.path()), [44, 42]);
}

#[test]
fn keep_last_keeps_the_newest_from_before_a_nan() {
    let (mut run, dir) = saved();
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let mut save = |run: &mut Run, step| run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    run.context.report(crate::StepReport::new(0, 42).loss(1.0));
    save(&mut run, 42);
    run.context.report(crate::StepReport::new(0, 43).loss(f64::NAN));
    save(&mut run, 43);
    save(&mut run, 44);
    assert_eq!(steps(dir.path()), [44, 42]);
    run.context.report(crate::StepReport::new(0, 45).loss(1.0));
    save(&mut run, 45);
    assert_eq!(steps(dir.path()), [45], "the loss is finite again");
    // Weights are looked at without a loss. A later process knows from the snapshots.
    let _ = tch::no_grad(|| run.vs.trainable_variables()[0].fill_(f64::NAN));
    save(&mut run, 46);
    let mut later = Run::new();
    assert_eq!(later.resume(dir.path()).unwrap().unwrap().step, 46);
    let mut snapshots = later.open(dir.path()).keep_last(1).blocking(true);
    later.save(&mut snapshots, Progress { step: 47, ..AT }).unwrap();
    assert_eq!(steps(dir.path()), [47, 45]);
}

#[test]
fn keep_last_skips_snapshots_of_another_user() {
    // SAFETY: a number is asked for.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: only root can make another user's files");
        return;
    }
    const NOBODY: u32 = 65534;
    let (mut run, dir) = saved();
    let path = dir.path();
    for step in [20, 30] {
        let mut snapshots = run.open(path);
        run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
    }
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    let partial = path.join(".step-00000050.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("x"), "").unwrap();
    fs::write(path.join(".lock"), "{}").unwrap();
    fs::set_permissions(path.join(".lock"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let as_nobody = || {
        // The identity that the kernel checks files against, of this thread and of those that it starts.
        // SAFETY: plain numbers.
        unsafe { libc::setfsuid(NOBODY) };
        let mut run = Run::new();
        assert!(fs::write(path.join("step-00000030/x"), "").is_err(), "it is not root any more");
        let mut snapshots = run.open(path).keep_last(1).blocking(true);
        let Run { vs, optimizer, .. } = &mut run;
        assert_eq!(snapshots.resume(vs, &mut bare(optimizer)).unwrap(), Some(AT));
        for step in [50, 51] {
            run.save(&mut snapshots, Progress { step, ..AT }).unwrap();
        }
        assert_eq!(steps(path), [51, 41, 30, 20], "those that can't be removed are as they were");
        format::list(path).unwrap().iter().for_each(|folder| drop(format::verify(folder).unwrap()));
    };
    std::thread::scope(|scope| scope.spawn(as_nobody).join()).unwrap();
    assert!(!path.join(".lock").exists() && partial.exists());
}

#[test]
fn folder_with_a_snapshots_name_that_is_not_a_snapshot_is_not_replaced() {
    let (mut run, dir) = saved();
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let precious = dir.path().join("step-00000042/precious");
    fs::create_dir(precious.parent().unwrap()).unwrap();
    fs::write(&precious, "data").unwrap();
    fs::write(dir.path().join("step-00000043"), "data").unwrap();
    for step in [42, 43] {
        let at = Progress { step, ..AT };
        run.save(&mut snapshots, at).unwrap();
        assert_eq!(format::newest_valid(dir.path()).unwrap().valid.unwrap().manifest.step, step);
        assert_eq!(Run::new().resume(dir.path()).unwrap(), Some(at));
    }
    assert_eq!(fs::read(precious).unwrap(), b"data");
    assert_eq!(fs::read(dir.path().join("step-00000043")).unwrap(), b"data");
}

#[test]
fn snapshots_of_other_versions_and_programs_are_not_replaced() {
    let (mut run, dir) = saved(); // step 41
    let mut snapshots = run.open(dir.path()).keep_last(1).blocking(true);
    let path = |name: &str| dir.path().join(name);
    // A later version's, something else with a file of that name, and a link.
    let text = fs::read_to_string(path("step-00000041/state.json")).unwrap();
    let newer = text.replace("\"format_version\": 1", "\"format_version\": 2");
    for (step, text) in [("step-00000042", newer.as_str()), ("step-00000043", "{\"mine\": 1}")] {
        fs::create_dir(path(step)).unwrap();
        fs::write(path(step).join("state.json"), text).unwrap();
        fs::write(path(step).join("precious"), "data").unwrap();
    }
    std::os::unix::fs::symlink("step-00000043", path("step-00000044")).unwrap();
    for step in [42, 43, 44] {
        let at = Progress { step, ..AT };
        // The second one replaces the first.
        for samples in [0, 8] {
            run.save(&mut snapshots, Progress { samples, ..at }).unwrap();
            let whole = format::newest_valid(dir.path()).unwrap().valid.unwrap();
            assert_eq!((whole.manifest.step, whole.manifest.samples_in_epoch), (step, samples));
            assert_eq!(whole.folder, path(&format!("step-{step:09}")), "more zeros are newer");
        }
        run.save(&mut snapshots, at).unwrap();
        assert_eq!(Run::new().resume(dir.path()).unwrap(), Some(at));
    }
    assert_eq!(fs::read_to_string(path("step-00000042/state.json")).unwrap(), newer);
    assert_eq!(fs::read(path("step-00000043/precious")).unwrap(), b"data");
    assert!(path("step-00000044").is_symlink());
    // Once the name is free, the snapshot has it again.
    fs::remove_file(path("step-00000044")).unwrap();
    run.save(&mut snapshots, Progress { step: 44, ..AT }).unwrap();
    assert!(path("step-00000044").is_dir() && !path("step-000000044").exists());
}
