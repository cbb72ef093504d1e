//! One file per subcommand.

/// As the standard library's, which panics when stdout is closed or full; this one does not. See [`crate::ui::stdout`].
macro_rules! println {
    () => { crate::ui::stdout::print(format_args!("\n")) };
    ($($arg:tt)*) => { crate::ui::stdout::print(format_args!("{}\n", format_args!($($arg)*))) };
}

/// As [`println`], without a newline.
macro_rules! print {
    ($($arg:tt)*) => { crate::ui::stdout::print(format_args!($($arg)*)) };
}

mod attach;
mod build;
mod completions;
mod demo;
mod doctor;
mod env;
mod exec;
mod gpus;
mod init;
mod job;
mod launch;
mod man;
mod new;
#[cfg(feature = "plot")]
mod plot;
mod ps;
mod run;
mod runs;
mod scope;
mod setup;
mod snapshot;
mod stop;
mod store;
mod table;
mod update;
mod vscode;

use std::path::Path;

use crate::cli::Command;
use crate::editor::debug;
use crate::launch::Registry;
use crate::machine::cache;
use crate::project::cargo::Project;
use crate::project::libtorch::{self as torch, Choice, Request};
use crate::{Result, Ui};

/// Runs a command to its end, and gives the exit code.
///
/// # Errors
/// Whatever keeps the command from doing its work; see [`Error::exit_code`](crate::Error::exit_code).
pub fn run(command: Command, ui: &Ui) -> Result<u8> {
    match command {
        Command::Demo(args) => demo::demo(&args, ui),
        Command::New(args) => new::new(&args, ui),
        Command::Init(args) => init::init(&args, ui),
        Command::Update(args) => update::update(&args, ui),
        Command::Run(args) => run::run(*args, ui),
        Command::Build(args) => build::build(&args, ui),
        Command::Attach(args) => attach::attach(&args, ui),
        Command::Launch(args) => launch::launch(args, ui),
        Command::Gpus(args) => gpus::gpus(&args),
        Command::Ps(args) => ps::ps(&args, ui),
        Command::Stop(args) => stop::stop(&args, ui),
        Command::Vscode(args) => vscode::vscode(&args, ui),
        Command::Setup(args) => setup::setup(&args, ui),
        Command::Exec(args) => exec::exec(args, ui),
        Command::Env(args) => env::env(&args, ui),
        Command::Runs(args) => runs::runs(&args),
        Command::Snapshot(args) => snapshot::snapshot(&args.command, ui),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => man::man(&args, ui),
        #[cfg(feature = "plot")]
        Command::Plot(args) => plot::plot(args, ui),
        #[cfg(not(feature = "plot"))]
        Command::Plot(_) => Err(crate::Error::NoFeature("plot")),
    }
}

/// The list of this user's jobs.
fn registry() -> Registry {
    Registry::in_cache(cache::dir().ok().as_deref())
}

/// Sees that `project` is linked to a libtorch (or that the user's own is fit), and says so when that is new.
fn ensure_libtorch(project: &Path, ui: &Ui) -> Result<Choice> {
    let choice = torch::choose(&Request::default(), Some(project), ui)?;
    if let Err(err) = debug::prepare(project) {
        // Only debuggers need it.
        tracing::debug!("{err}");
    }
    if torch::own_libtorch().is_none() && torch::link(project, &choice.home)? {
        say(&choice, ui);
    }
    Ok(choice)
}

/// What makes a new project ready without waiting for anything: a link to the libtorch that is there already, and the
/// dependencies that other projects have built. What fails here, the first `cargo ddp run` reports.
fn prepare(project: &Path, ui: &Ui) -> Result<()> {
    let Some(choice) = torch::find(&Request::default(), None, ui)? else { return Ok(()) };
    if torch::own_libtorch().is_none() && torch::link(project, &choice.home)? {
        say(&choice, ui);
    }
    reuse(&Project::find(Some(&project.join("Cargo.toml")))?, ui);
    Ok(())
}

/// Gives a project the dependencies that other projects have built.
fn reuse(project: &Project, ui: &Ui) {
    let count = project.seed(None);
    if count > 0 {
        ui.status("Reusing", format!("{count} compiled dependencies of earlier projects"));
    }
}

/// Writes this machine's libtorch for cargo, in a project whose configuration was changed after it had been linked.
fn relink(project: &Path) -> Result<()> {
    match torch::Home::inspect(&project.join(torch::LINK)) {
        Ok(home) if torch::own_libtorch().is_none() => torch::link(project, &home).map(drop),
        _ => Ok(()),
    }
}

fn say(Choice { home, why }: &Choice, ui: &Ui) {
    let (version, flavor, path) = (torch::VERSION, home.flavor().name(), home.path().display());
    ui.status("Using", format!("libtorch {version} ({flavor}) in {path}: {why}"));
}
