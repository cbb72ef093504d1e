//! Folders that something has happened to.

use ddp_contract::snapshot::Manifest;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::*;

/// What can happen to a file.
#[derive(Clone, Debug)]
enum Damage {
    Truncate(prop::sample::Index),
    Flip(Vec<(prop::sample::Index, u8)>),
    Append(Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        any::<prop::sample::Index>().prop_map(Damage::Truncate),
        vec((any::<prop::sample::Index>(), 1..=u8::MAX), 1..6).prop_map(Damage::Flip),
        vec(any::<u8>(), 1..40).prop_map(Damage::Append),
    ]
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Truncate(at) => bytes.truncate(at.index(bytes.len())),
            Self::Flip(flips) => flips.iter().for_each(|(at, mask)| {
                let at = at.index(bytes.len());
                bytes[at] ^= mask;
            }),
            Self::Append(more) => bytes.extend(more),
        }
    }
}

const FILES: [&str; 4] = [format::MODEL, format::OPTIMIZER, format::RNG, format::MANIFEST];

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

#[test]
fn damaged_folder_is_refused_or_loads_the_saved_values() {
    let (run, dir) = saved();
    let expected = run.everything();
    let folder = dir.path().join(format::folder_name(AT.step));
    let whole = FILES.map(|file| fs::read(folder.join(file)).unwrap());
    proptest!(config(300), |(file in 0..FILES.len(), damage in damage())| {
        let mut bytes = whole[file].clone();
        damage.apply(&mut bytes);
        fs::write(folder.join(FILES[file]), &bytes).unwrap();
        let mut other = Run::new();
        let before = other.everything();
        let outcome = other.resume(dir.path());
        fs::write(folder.join(FILES[file]), &whole[file]).unwrap();
        match outcome {
            Ok(progress) => {
                // Two flips of the same bits.
                prop_assert_eq!(&bytes, &whole[file]);
                prop_assert_eq!(progress, Some(AT));
                prop_assert_eq!(&other.everything(), &expected);
            }
            Err(err) => {
                prop_assert!(matches!(err, Error::NoValidSnapshot { .. }), "{}", err);
                prop_assert_eq!(other.everything(), before, "nothing was loaded");
            }
        }
    });
}

/// As if by somebody who makes the checksums right: what is then in the files may be loaded, but nothing may break.
#[test]
fn invalid_header_is_an_error_or_loads_but_never_panics() {
    let (_, dir) = saved();
    let folder = dir.path().join(format::folder_name(AT.step));
    let manifest = format::read_manifest(&folder).unwrap();
    let whole = FILES.map(|file| fs::read(folder.join(file)).unwrap());
    proptest!(config(300), |(file in 0..3usize, flips in vec((0..400usize, 1..=u8::MAX), 1..4))| {
        let mut bytes = whole[file].clone();
        flips.iter().filter(|(at, _)| *at < whole[file].len()).for_each(|(at, mask)| bytes[*at] ^= mask);
        let path = folder.join(FILES[file]);
        fs::write(&path, &bytes).unwrap();
        let mut files = manifest.files.clone();
        files.insert(FILES[file].to_owned(), format::FileInfo::read(&path).unwrap());
        let forged = format::manifest_text(&Manifest { files, ..manifest.clone() }).unwrap();
        fs::write(folder.join(format::MANIFEST), forged).unwrap();
        let outcome = Run::new().resume(dir.path());
        fs::write(&path, &whole[file]).unwrap();
        prop_assert!(outcome.is_err() || outcome.is_ok_and(|at| at == Some(AT)));
    });
}
