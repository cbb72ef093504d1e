//! `cargo ddp attach`: debug sessions for the workers of a running job.

use std::fs;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use ddp_contract::file;
use ddp_contract::job::Job;
use ddp_contract::text::printable_line;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::scope::{self, Candidates};
use crate::cli::Attach;
use crate::editor::debug::{self, Debug, Sessions};
use crate::launch::process_of;
use crate::project::cargo::Project;
use crate::ui::messages;
use crate::{Error, Result, Ui, exit, shell};

/// How often to look whether the job has started its workers again.
const PERIOD: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// The file with the chosen run, in the project's folder for debugging. The next attach removes it.
const CHOSEN: &str = "attach";

/// `cargo ddp attach [RUN]`: opens a debug session for each worker of a job, and stays until the job ends or the debugger
/// detaches.
pub(super) fn attach(args: &Attach, ui: &Ui) -> Result<u8> {
    let root = match Project::find(None) {
        Ok(project) => project.root,
        Err(_) => std::env::current_dir().map_err(Error::system("can't find the current folder"))?,
    };
    let chosen = root.join(debug::FOLDER).join(CHOSEN);
    if args.choose {
        let job = choose(None, args.all, scope::registry().running())?;
        debug::prepare(&root)?;
        debug::replace(&chosen, |fresh| fs::write(fresh, &job.run))
            .map_err(Error::system(format!("can't write {}", chosen.display())))?;
        ui.status("Chosen", format!("{} (pid {}): {}", job.run, job.pid, shell::join(&job.command)));
        return Ok(exit::SUCCESS);
    }
    let sessions = match sessions(&root, ui)? {
        Some(sessions) => sessions,
        None => return Err(Error::NotDebugged),
    };
    let run = args.run.clone().or_else(|| String::from_utf8(file::read(&chosen, file::SMALL).ok()?).ok());
    let _ = fs::remove_file(&chosen);
    let mut job = choose(run.as_deref(), args.all, scope::registry().running())?;
    let run = job.run.clone();
    let failed = |err: Errno| Error::system(format!("can't attach to {run}"))(err.into());
    let process = process_of(&job).map_err(Error::system(format!("can't attach to {run}")))?;
    let pidfd = process.ok_or_else(|| failed(Errno::SRCH))?;
    ui.status("Attaching", format!("to {} (pid {}): {}", job.run, job.pid, shell::join(&job.command)));
    let mut open: Vec<u32> = Vec::new();
    loop {
        // A job whose launcher is just starting its workers has none yet.
        if job.workers != open {
            open.clone_from(&job.workers);
            let program = job.command.first().map(String::as_str).unwrap_or_default();
            let program = job.folder.join(program).to_string_lossy().into_owned();
            for (rank, pid) in (job.first_rank..).zip(&open) {
                debug::start(&sessions.session(&program, rank, *pid, job.attempt));
            }
        }
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&PERIOD)) {
            Ok(1..) => break,
            Ok(0) | Err(Errno::INTR) => {}
            Err(err) => return Err(failed(err)),
        }
        if !debug::is_traced() {
            return Ok(exit::SUCCESS);
        }
        let running = scope::registry().running();
        if let Some(now) = running.into_iter().find(|other| other.pid == job.pid && other.run == job.run) {
            job = now;
        }
    }
    ui.status("Finished", format!("{} has ended", job.run));
    Ok(exit::SUCCESS)
}

fn sessions(root: &Path, ui: &Ui) -> Result<Option<Sessions>> {
    if !debug::is_traced() {
        return Ok(None);
    }
    Ok(match Debug::from_env(root, ui)? {
        Some(Debug::Sessions(sessions)) => Some(sessions),
        Some(Debug::Join(_)) | None => None,
    })
}

/// The job that was asked for, or the only one, or the one that the user chooses.
fn choose(run: Option<&str>, all: bool, running: Vec<Job>) -> Result<Job> {
    let names = scope::names(&running);
    let Candidates { mut jobs, others } = scope::candidates(run, all, running)?;
    let choice = match jobs.len() {
        0 => return Err(scope::not_here(run, names, &others)),
        1 => Some(0),
        _ if std::io::stdin().is_terminal() => ask(&jobs),
        _ => None,
    };
    match choice {
        Some(choice) => Ok(jobs.swap_remove(choice)),
        None => Err(Error::ManyRuns(scope::names(&jobs).join(", "))),
    }
}

fn ask(jobs: &[Job]) -> Option<usize> {
    let mut stderr = std::io::stderr();
    for (number, job) in jobs.iter().enumerate() {
        let line = format!("{} ({}): {}", job.run, messages::count(job.nproc, "worker"), shell::join(&job.command));
        let _ = writeln!(stderr, "{:>3}  {}", number + 1, printable_line(&line));
    }
    let _ = write!(stderr, "Number of the job: ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).ok()?;
    let number: usize = line.trim().parse().ok()?;
    number.checked_sub(1).filter(|choice| *choice < jobs.len())
}
