//! Which libraries an ELF file needs, and which of them the dynamic linker would not find.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use ddp_contract::file;
use memmap2::{Mmap, MmapOptions};
use object::Endianness;
use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64};
use object::read::elf::{Dyn, ElfFile64};

/// What a shared library or a program asks the dynamic linker for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Dynamic {
    pub(super) needed: Vec<String>,
    /// The entries of its RUNPATH (or RPATH), in order, unexpanded.
    pub(super) run_path: Vec<String>,
    /// It is an RPATH, which also applies to the libraries that this file needs.
    pub(super) passed_on: bool,
}

pub(super) fn map(path: &Path) -> Result<Mmap, String> {
    let file = file::open(path).map_err(|err| err.to_string())?;
    // SAFETY: only read, and only for a moment; a library that changes meanwhile gives a wrong line at worst.
    unsafe { MmapOptions::new().map(&file) }.map_err(|err| err.to_string())
}

/// Reads the dynamic section of the ELF file at `path`.
pub(super) fn dynamic(path: &Path) -> Result<Dynamic, String> {
    let map = map(path)?;
    let bad = |err: object::Error| err.to_string();
    let elf = ElfFile64::<Endianness>::parse(&*map).map_err(bad)?;
    let (endian, sections) = (elf.endian(), elf.elf_section_table());
    let mut found = Dynamic::default();
    let Some((entries, link)) = sections.dynamic(endian, &*map).map_err(bad)? else { return Ok(found) };
    let (mut run_path, mut rpath) = (None, None);
    let strings = sections.strings(endian, &*map, link).map_err(bad)?;
    for entry in entries {
        let entry: &<FileHeader64<Endianness> as object::read::elf::FileHeader>::Dyn = entry;
        let text = || entry.string(endian, strings).map(|text| String::from_utf8_lossy(text).into_owned()).map_err(bad);
        match entry.tag(endian) {
            DT_NEEDED => found.needed.push(text()?),
            DT_RUNPATH => run_path = Some(text()?),
            DT_RPATH => rpath = Some(text()?),
            _ => {}
        }
    }
    // If a file has both, the dynamic linker ignores the RPATH.
    found.passed_on = run_path.is_none() && rpath.is_some();
    found.run_path = run_path.or(rpath).iter().flat_map(|text| text.split(':')).map(str::to_owned).collect();
    Ok(found)
}

/// Libraries that would not be found when `path` is loaded, each with the file that asks for it. Looks where the dynamic
/// linker does: at what is loaded already, the run paths, and `folders` (the system's).
pub(super) fn missing(path: &Path, folders: &[PathBuf]) -> Result<Vec<(String, PathBuf)>, String> {
    let mut missing = Vec::new();
    let mut known: BTreeSet<String> = BTreeSet::new();
    // Each file with the folders that it inherits from the files that need it.
    let mut queue = VecDeque::from([(path.to_owned(), Vec::new())]);
    while let Some((file, inherited)) = queue.pop_front() {
        let Dynamic { needed, run_path, passed_on } = dynamic(&file)?;
        let mut places: Vec<PathBuf> = run_path.iter().map(|entry| origin(&file, entry)).collect();
        places.extend(inherited.iter().cloned());
        let pass_on = if passed_on { &places } else { &inherited };
        for name in needed {
            if !known.insert(name.clone()) {
                continue;
            }
            let all = places.iter().chain(folders);
            match all.map(|folder| folder.join(&name)).find(|path| path.exists()) {
                Some(found) => queue.push_back((found, pass_on.clone())),
                None => missing.push((name, file.clone())),
            }
        }
    }
    Ok(missing)
}

/// A run path's entry, with `$ORIGIN` as the file's own folder. (A library's is that of the link it was found through, a
/// program's that of the program itself.)
fn origin(file: &Path, entry: &str) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new(".")).to_string_lossy();
    entry.replace("${ORIGIN}", &folder).replace("$ORIGIN", &folder).into()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn library_dependencies_are_followed_to_the_missing_one() {
        let dir = tempfile::tempdir().unwrap();
        let build_with = |name: &str, uses: &[&str], flags: &[&str]| {
            let mut cc = Command::new("cc");
            cc.current_dir(dir.path()).args(["-shared", "-nostdlib", "-x", "c", "/dev/null", "-o", name, "-L."]);
            cc.args(["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]).args(flags);
            cc.args(uses.iter().map(|name| format!("-l:{name}")));
            assert!(cc.status().unwrap().success());
        };
        let build =
            |name: &str, uses: &[&str]| build_with(name, uses, &["-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN"]);
        build("libc.so", &[]);
        build("libb.so", &["libc.so"]);
        build("liba.so", &["libb.so"]);
        let a = dir.path().join("liba.so");
        assert_eq!(
            dynamic(&a).unwrap(),
            Dynamic { needed: vec!["libb.so".into()], run_path: vec!["$ORIGIN".into()], passed_on: false }
        );
        assert_eq!(missing(&a, &[]).unwrap(), []);
        // A RUNPATH applies to the file itself, an RPATH also to the libraries that it needs.
        build_with("libb.so", &["libc.so"], &[]);
        assert_eq!(missing(&a, &[]).unwrap(), [("libc.so".to_owned(), dir.path().join("libb.so"))]);
        build_with("liba.so", &["libb.so"], &["-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN"]);
        assert!(dynamic(&a).unwrap().passed_on);
        assert_eq!(missing(&a, &[]).unwrap(), []);
        std::fs::remove_file(dir.path().join("libc.so")).unwrap();
        assert_eq!(missing(&a, &[]).unwrap(), [("libc.so".to_owned(), dir.path().join("libb.so"))]);
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join("libc.so"), "").unwrap();
        assert!(missing(&a, &[elsewhere.path().to_owned()]).unwrap_err().contains("ELF"), "found, and no library");
    }
}
