//! One file per subcommand.

mod demo;
mod exec;
mod gpus;
mod init;
mod job;
mod launch;
mod new;
mod ps;
mod run;
mod setup;
mod stop;
mod update;

use std::path::Path;

use crate::cli::Command;
use crate::torch::{self, Choice, Request};
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
        Command::Run(args) => run::run(args),
        Command::Launch(args) => launch::launch(args),
        Command::Gpus(args) => gpus::gpus(&args),
        Command::Ps(args) => ps::ps(&args),
        Command::Stop(args) => stop::stop(&args, ui),
        Command::Setup(args) => setup::setup(&args, ui),
        Command::Exec(args) => exec::exec(args, ui),
    }
}

/// Sees that `project` is linked to a libtorch (or that the user's own is fit), and says so when that is new.
fn ensure_libtorch(project: &Path, ui: &Ui) -> Result<Choice> {
    let choice = torch::choose(&Request::default(), Some(project), ui)?;
    if torch::own_libtorch().is_none() && torch::link(project, &choice.home)? {
        say(&choice, ui);
    }
    Ok(choice)
}

fn say(Choice { home, why }: &Choice, ui: &Ui) {
    let (version, flavor, path) = (torch::VERSION, home.flavor().name(), home.path().display());
    ui.status("Using", format!("libtorch {version} ({flavor}) in {path}: {why}"));
}
