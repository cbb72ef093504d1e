//! What the kernel needs to run a file: the interpreter of a script, the dynamic loader of a program. When it is missing, the
//! kernel says "No such file or directory", as if the file itself were.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The kernel reads a script's first line up to here.
const FIRST_LINE: usize = 256;

/// What a program needs to run, and is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Its path or name.
    pub(crate) interpreter: String,
    /// The program is a script whose lines end as on Windows, so the interpreter's name ends with a carriage return.
    pub(crate) windows: bool,
}

/// `None` for a program that has all it needs, as far as can be told.
pub(crate) fn missing(program: &Path) -> Option<Missing> {
    if !program.is_file() {
        return None;
    }
    let mut start = Vec::new();
    File::open(program).ok()?.take(64 << 10).read_to_end(&mut start).ok()?;
    match start.strip_prefix(b"#!") {
        Some(line) => of_script(line),
        None => loader(&start)
            .filter(|path| !Path::new(path).exists())
            .map(|interpreter| Missing { interpreter, windows: false }),
    }
}

fn of_script(line: &[u8]) -> Option<Missing> {
    let line = line[..line.len().min(FIRST_LINE)].split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    // The kernel cuts spaces and tabs, and nothing else.
    let line = line.trim_matches([' ', '\t']);
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let windows = line.ends_with('\r');
    let missing = |name: &str| Some(Missing { interpreter: name.trim_end_matches('\r').to_owned(), windows });
    if !Path::new(interpreter).exists() {
        return missing(interpreter);
    }
    if Path::new(interpreter).file_name().is_some_and(|name| name == "env") {
        // `env` looks for the program itself; of options other than -S it is not known which take a value.
        let words = rest.trim_matches([' ', '\t']);
        let name = match words.strip_prefix("-S") {
            Some(words) => words.split([' ', '\t']).find(|word| !word.is_empty() && !word.contains('=')),
            None => Some(words),
        };
        let name = name.filter(|name| !name.is_empty() && !name.starts_with('-') && !name.contains('='))?;
        if which::which(name).is_err() {
            return missing(name);
        }
    }
    // The interpreter is there, and gets an option that ends with a carriage return.
    if windows { missing(interpreter) } else { None }
}

/// The dynamic loader that an ELF file of this machine's class names (`PT_INTERP`).
fn loader(file: &[u8]) -> Option<String> {
    use object::read::elf::{FileHeader, ProgramHeader};

    let header = object::elf::FileHeader64::<object::Endianness>::parse(file).ok()?;
    let endian = header.endian().ok()?;
    let segments = header.program_headers(endian, file).ok()?;
    let path = segments.iter().find_map(|segment| segment.interpreter(endian, file).ok().flatten())?;
    String::from_utf8(path.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_needs_its_interpreter() {
        let of = |text: &str| of_script(text.as_bytes()).map(|missing| (missing.interpreter, missing.windows));
        for fine in
            ["/bin/sh\nx", " /bin/sh -e\n", "/usr/bin/env sh\n", "/usr/bin/env -S A=1 sh -e\n", "/usr/bin/env -i sh\n"]
        {
            assert_eq!(of(fine), None, "{fine:?}");
        }
        let gone = |name: &str, windows| Some((name.to_owned(), windows));
        assert_eq!(of("/opt/no/python3\n"), gone("/opt/no/python3", false));
        assert_eq!(of("/bin/sh\r\nx\r\n"), gone("/bin/sh", true));
        assert_eq!(of("/bin/sh -e\r\n"), gone("/bin/sh", true));
        assert_eq!(of("/usr/bin/env sh\r\n"), gone("sh", true));
        assert_eq!(of("/usr/bin/env no-such-program\n"), gone("no-such-program", false));
    }

    #[test]
    fn a_program_needs_its_loader() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let path = loader(&own).unwrap();
        assert!(Path::new(&path).exists(), "{path}");
        let at = own.windows(path.len()).position(|window| window == path.as_bytes()).unwrap();
        let mut other = own[..own.len().min(64 << 10)].to_vec();
        other[at..at + 5].copy_from_slice(b"/none");
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, other).unwrap();
        assert!(missing(&program).unwrap().interpreter.starts_with("/none"));
        assert_eq!(missing(&std::env::current_exe().unwrap()), None);
    }
}
