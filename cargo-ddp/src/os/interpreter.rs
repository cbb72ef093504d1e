//! What the kernel needs to run a file: the interpreter of a script, the dynamic loader of a program. When it is missing, the
//! kernel says "No such file or directory", as if the file itself were.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustix::fs::{Access, access};

/// The kernel reads a script's first line up to here.
const FIRST_LINE: usize = 256;
/// An interpreter may be a script with an interpreter, and so on: the kernel follows this many.
const DEPTH: usize = 5;

/// What a program needs to run, and does not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Missing {
    /// Its path or name.
    pub(crate) interpreter: String,
    /// What is wrong with it.
    pub(crate) fault: Fault,
}

/// Why an interpreter can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not exist.
    Missing,
    /// The script's lines end as on Windows, so the interpreter's name ends with a carriage return.
    Windows,
    /// It has no permission to be executed.
    NotExecutable,
}

/// `None` for a program that has everything it needs, as far as this function can see.
pub(crate) fn missing(program: &Path) -> Option<Missing> {
    missing_of(program, DEPTH)
}

fn missing_of(program: &Path, depth: usize) -> Option<Missing> {
    if depth == 0 || !program.is_file() {
        return None;
    }
    let mut start = Vec::new();
    File::open(program).ok()?.take(64 << 10).read_to_end(&mut start).ok()?;
    match start.strip_prefix(b"#!") {
        Some(line) => of_script(line, depth),
        None => loader(&start)
            .filter(|path| !Path::new(path).exists())
            .map(|interpreter| Missing { interpreter, fault: Fault::Missing }),
    }
}

fn of_script(line: &[u8], depth: usize) -> Option<Missing> {
    let line = line[..line.len().min(FIRST_LINE)].split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    // The kernel cuts spaces and tabs, and nothing else.
    let line = line.trim_matches([' ', '\t']);
    let (interpreter, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let windows = line.ends_with('\r');
    let fault = |name: &str, fault| {
        let fault = if windows { Fault::Windows } else { fault };
        Some(Missing { interpreter: name.trim_end_matches('\r').to_owned(), fault })
    };
    if interpreter.trim_end_matches('\r').is_empty() {
        return None;
    }
    let path = Path::new(interpreter);
    if !path.exists() {
        return fault(interpreter, Fault::Missing);
    }
    if path.is_dir() || access(path, Access::EXEC_OK).is_err() {
        return fault(interpreter, Fault::NotExecutable);
    }
    if path.file_name().is_some_and(|name| name == "env") {
        // `env` looks for the program itself; of options other than -S it is not known which take a value.
        let words = rest.trim_matches([' ', '\t']);
        let name = words.strip_prefix("-S").map_or(Some(words), program_in);
        let name = name.filter(|name| !name.is_empty() && !name.starts_with(['-', '#']) && !name.contains('='))?;
        return match which::which(name) {
            Ok(path) => missing_of(&path, depth - 1),
            Err(_) if name.contains('/') && Path::new(name).exists() => fault(name, Fault::NotExecutable),
            Err(_) => fault(name, Fault::Missing),
        };
    }
    // The interpreter is there, and gets an option that ends with a carriage return.
    if windows { fault(interpreter, Fault::Windows) } else { missing_of(path, depth - 1) }
}

/// The program in a text that `env -S` splits. `None` if it has quotes, escapes or variables, or searches another PATH.
fn program_in(words: &str) -> Option<&str> {
    let unclear = |word: &str| word.starts_with("PATH=") || word.contains(['$', '\\', '\'', '"']);
    if words.split_ascii_whitespace().any(unclear) {
        return None;
    }
    words.split_ascii_whitespace().find(|word| !word.contains('='))
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

    fn script_problem(text: &str) -> Option<(String, Fault)> {
        of_script(text.as_bytes(), DEPTH).map(|missing| (missing.interpreter, missing.fault))
    }

    #[test]
    fn script_needs_its_interpreter() {
        for fine in ["/bin/sh\nx", " /bin/sh -e\n", "/usr/bin/env sh\n", "/usr/bin/env -i sh\n", "\n", " \t\n", "\r\n"]
        {
            assert_eq!(script_problem(fine), None, "{fine:?}");
        }
        let gone = |name: &str, fault| Some((name.to_owned(), fault));
        assert_eq!(script_problem("/opt/no/python3\n"), gone("/opt/no/python3", Fault::Missing));
        assert_eq!(script_problem("/bin/sh\r\nx\r\n"), gone("/bin/sh", Fault::Windows));
        assert_eq!(script_problem("/bin/sh -e\r\n"), gone("/bin/sh", Fault::Windows));
        assert_eq!(script_problem("/usr/bin/env sh\r\n"), gone("sh", Fault::Windows));
        assert_eq!(script_problem("/usr/bin/env no-such-program\n"), gone("no-such-program", Fault::Missing));
        assert_eq!(script_problem("/usr/bin/env -S no-such-program -e\n"), gone("no-such-program", Fault::Missing));
        assert_eq!(script_problem("/\n"), gone("/", Fault::NotExecutable));
    }

    #[test]
    fn env_split_string_is_checked_only_if_it_is_plain() {
        for words in [
            "A=1 sh -e",
            "${MYSH} -e",
            "'sh' -e",
            "\"sh\" -e",
            "sh\\_-e",
            "A=\"x y\" sh",
            "PATH=/tmp/dir/bin no-such-program",
            "A=1 PATH=/tmp/dir/bin no-such-program",
            "-u A no-such-program",
            "#",
            // It separates words, as a space does.
            "sh\r",
        ] {
            assert_eq!(script_problem(&format!("/usr/bin/env -S {words}\n")), None, "{words:?}");
        }
    }

    #[test]
    fn interpreter_that_is_a_script_needs_one_too() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, interpreter: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, format!("#!{interpreter}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let inner = script("inner", "/opt/no/python3");
        let outer = script("outer", &inner);
        let gone = Missing { interpreter: "/opt/no/python3".into(), fault: Fault::Missing };
        assert_eq!(missing(Path::new(&outer)), Some(gone.clone()));
        assert_eq!(missing(Path::new(&script("by env", &format!("/usr/bin/env {inner}")))), Some(gone));
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o644)).unwrap();
        let denied = Missing { interpreter: inner.clone(), fault: Fault::NotExecutable };
        assert_eq!(missing(Path::new(&outer)), Some(denied.clone()));
        assert_eq!(missing(Path::new(&script("by env", &format!("/usr/bin/env {inner}")))), Some(denied));
        let endless = script("endless", dir.path().join("endless").to_str().unwrap());
        assert_eq!(missing(Path::new(&endless)), None);
    }

    #[test]
    fn program_needs_its_loader() {
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
