//! Programs that are not text. `Command` starts a program by execvp(3), which has a shell read whatever the kernel refuses: a
//! program for another machine would be a script with a syntax error. Here the kernel alone decides.

use std::collections::BTreeMap;
use std::ffi::{CString, OsString, c_char};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// How much of a file tells whether it is text.
const BLOCK: u64 = 4096;

/// To be called last: the command's program, arguments and environment are those of now.
pub(crate) fn start_without_shell(command: &mut Command) {
    let Ok(program) = which::which(command.get_program()) else { return };
    if is_binary(&program).unwrap_or(false)
        && let Some(exec) = Exec::new(&program, command)
    {
        // SAFETY: the closure runs between fork and exec, and makes one system call.
        unsafe { command.pre_exec(move || Err(exec.run())) };
    }
}

fn is_binary(program: &Path) -> io::Result<bool> {
    let mut start = Vec::new();
    File::open(program)?.take(BLOCK).read_to_end(&mut start)?;
    // An "actually portable executable" begins as a shell script, with an assignment to a name of six letters.
    let portable = start.get(6..8) == Some(b"='");
    Ok(start.contains(&0) && !start.starts_with(b"#!") && !portable)
}

/// What execve(2) takes.
struct Exec {
    program: CString,
    args: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// What the pointers point to.
    _texts: [Vec<CString>; 2],
}

// SAFETY: the pointers are to texts that it owns, and that nobody changes.
unsafe impl Send for Exec {}
// SAFETY: as above.
unsafe impl Sync for Exec {}

impl Exec {
    /// `None` for texts with a NUL byte, which `Command` itself refuses.
    fn new(program: &Path, command: &Command) -> Option<Self> {
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => environment.insert(name.to_owned(), value.to_owned()),
                None => environment.remove(name),
            };
        }
        let args = std::iter::once(command.get_program()).chain(command.get_args());
        let args: Result<Vec<_>, _> = args.map(|arg| CString::new(arg.as_bytes())).collect();
        let variables = environment.iter().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
        let variables: Result<Vec<_>, _> = variables.map(CString::new).collect();
        let texts = [args.ok()?, variables.ok()?];
        let [args, environment] =
            texts.each_ref().map(|list| list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect());
        Some(Self { program: CString::new(program.as_os_str().as_bytes()).ok()?, args, environment, _texts: texts })
    }

    /// Returns only if the kernel refuses the program.
    fn run(&self) -> io::Error {
        // SAFETY: the lists end with a null pointer, and their texts live as long as `self`.
        unsafe { libc::execve(self.program.as_ptr(), self.args.as_ptr(), self.environment.as_ptr()) };
        io::Error::last_os_error()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// The result of starting a program with this content.
    fn start(content: &[u8]) -> io::Result<Option<i32>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut command = Command::new(&path);
        // SAFETY: it does nothing. With such a function a program is started by execvp(3), as workers are.
        unsafe { command.pre_exec(|| Ok(())) };
        start_without_shell(&mut command);
        loop {
            match command.status() {
                // Another test's child, before its exec, still has the file open for writing.
                Err(err) if err.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
                end => return end.map(|status| status.code()),
            }
        }
    }

    #[test]
    fn binary_that_the_kernel_refuses_is_not_read_by_a_shell() {
        let mut other = std::fs::read(which::which("env").unwrap()).unwrap();
        // Its machine: one that was never built.
        other[18..20].copy_from_slice(&[0x77, 0x77]);
        for content in [&other[..], b"exit 3\n\0", &[0; 300]] {
            assert_eq!(start(content).unwrap_err().raw_os_error(), Some(libc::ENOEXEC));
        }
    }

    #[test]
    fn text_and_portable_executables_are_still_read_by_a_shell() {
        for content in [&b"exit 3\n"[..], b"MZqFpD='\n'\nexit 3\n\0", b"#!/bin/sh\nexit 3\n\0"] {
            assert_eq!(start(content).unwrap(), Some(3));
        }
    }

    #[test]
    fn binary_gets_its_arguments_and_environment() {
        let mut command = Command::new("env");
        command.args(["sh", "-c", "echo $0 $1 $NEW ${HOME-none}", "a", "b c"]).env("NEW", "new").env_remove("HOME");
        start_without_shell(&mut command);
        assert_eq!(String::from_utf8(command.output().unwrap().stdout).unwrap(), "a b c new none\n");
    }
}
