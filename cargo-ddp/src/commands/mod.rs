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

mod at_step;
mod attach;
mod build;
mod completions;
mod debug_adapter;
mod demo;
mod diff;
mod doctor;
mod env;
mod exec;
mod gpus;
mod init;
mod job;
mod launch;
mod libtorch;
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

use crate::cli::Command;
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
        Command::DebugAdapter(args) => debug_adapter::debug_adapter(args),
        Command::Launch(args) => launch::launch(args, ui),
        Command::Gpus(args) => gpus::gpus(&args),
        Command::Ps(args) => ps::ps(&args, ui),
        Command::Stop(args) => stop::stop(&args, ui),
        Command::Diff(args) => diff::diff(&args, ui),
        Command::Vscode(args) => vscode::vscode(&args, ui),
        Command::Setup(args) => setup::setup(&args, ui),
        Command::Exec(args) => exec::exec(args, ui),
        Command::Env(args) => env::env(&args, ui),
        Command::Runs(args) => runs::runs(&args, ui),
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
