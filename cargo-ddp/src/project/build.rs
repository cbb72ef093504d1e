//! Building a project with cargo, its libtorch, and what other projects have built.

use std::collections::BTreeMap;
use std::io::{BufReader, Write, stderr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use cargo_metadata::{Artifact, Message};

use super::cargo::{BuildConfig, BuildTarget, Chosen, Project, Selection, program};
use super::libtorch::libtorch_for;
use super::shared::Sharing;
use crate::os::child;
use crate::{Error, Result};

impl Project {
    /// Copies dependencies that other projects have built into a project that lacks them.
    /// Returns the number of crates and build scripts that need not be compiled.
    pub fn seed(&self, profile: Option<&str>) -> usize {
        let platforms = BuildConfig::read(&self.root, |name| std::env::var_os(name)).unwrap_or_default().targets;
        let platforms: Vec<_> = platforms.iter().map(BuildTarget::folder).collect();
        Sharing::new(self, profile, &platforms).map_or(0, |sharing| sharing.seed())
    }

    /// Builds the selection, with cargo's own messages on stderr, and gives the executable to run.
    ///
    /// # Errors
    /// [`Error::Build`] when cargo fails (it has printed the reason), and the errors of [`check`](Self::check).
    pub fn build(&self, selection: &Selection) -> Result<PathBuf> {
        self.check(selection)?;
        let chosen = self.choose(selection)?;
        let mut build = Command::new(program());
        build.args(["build", "--message-format=json-render-diagnostics"]).args(&selection.flags);
        if let Some(path) = &selection.manifest_path {
            build.arg("--manifest-path").arg(path);
        }
        if let (Some(chosen), None) = (&chosen, &selection.target) {
            // Without a name, cargo silently skips a binary whose features are off; `cargo run` reports an error.
            build.args(["--bin", &chosen.name]);
        }
        if selection.quiet {
            build.arg("--quiet");
        }
        build.env("LIBTORCH", libtorch_for(&self.root)).stdin(Stdio::null()).stdout(Stdio::piped());
        child::dies_with_parent(&mut build);
        let mut sharing = self.sharing(selection);
        if let Some(sharing) = &sharing {
            sharing.seed();
        }
        tracing::debug!(command = ?build, "building");
        let start = |source| Error::Start { program: program().into(), source };
        let mut cargo = build.spawn().map_err(start)?;

        let mut built = Vec::new();
        if let Some(stdout) = cargo.stdout.take() {
            for message in Message::parse_stream(BufReader::new(stdout)) {
                match message.map_err(Error::system("can't read cargo's messages"))? {
                    Message::CompilerArtifact(artifact) => {
                        if let Some(sharing) = &mut sharing {
                            sharing.saw(&artifact);
                        }
                        built.push(artifact);
                    }
                    Message::BuildScriptExecuted(script) => {
                        if let Some(sharing) = &mut sharing {
                            sharing.saw_script(&script);
                        }
                    }
                    // What a build script or a macro prints on stdout.
                    Message::TextLine(line) => drop(writeln!(stderr(), "{line}")),
                    _ => {}
                }
            }
        }
        let status = cargo.wait().map_err(Error::system("can't wait for cargo"))?;
        if !status.success() {
            return Err(Error::Build(status));
        }
        if let Some(sharing) = &sharing {
            sharing.store();
        }
        pick(&built, selection, chosen.as_ref())
    }

    /// What a build of the selection shares with other projects.
    fn sharing(&self, selection: &Selection) -> Option<Sharing<'_>> {
        let here = std::env::current_dir().unwrap_or_default();
        let configured = || BuildConfig::read(&here, |name| std::env::var_os(name)).unwrap_or_default().targets;
        let platforms = match &selection.platform {
            Some(name) => vec![BuildTarget { name: name.clone(), source: PathBuf::new() }],
            None => configured(),
        };
        let platforms: Vec<_> = platforms.iter().map(BuildTarget::folder).collect();
        // cargo does not report the folder of `--target-dir`.
        (!selection.has_target_dir).then(|| Sharing::new(self, selection.profile.as_deref(), &platforms)).flatten()
    }
}

/// The executable of the program that was chosen.
fn pick(built: &[Artifact], selection: &Selection, chosen: Option<&Chosen>) -> Result<PathBuf> {
    let is_chosen = |artifact: &Artifact| match chosen {
        Some(Chosen { package, name, example }) => {
            artifact.package_id == *package && artifact.target.name == *name && artifact.target.is_example() == *example
        }
        // A name that only cargo knows.
        None => artifact.target.is_bin() || artifact.target.is_example() && selection.target.is_some(),
    };
    let found = built.iter().filter(|artifact| is_chosen(artifact));
    let executables: BTreeMap<_, _> =
        found.filter_map(|artifact| Some((artifact.executable.clone()?, &artifact.target.name))).collect();
    let mut all = executables.iter();
    match (all.next(), all.next()) {
        (None, _) => Err(Error::NoBinary),
        (Some((executable, _)), None) => Ok(executable.clone().into_std_path_buf()),
        _ => Err(Error::ManyBinaries(executables.keys().map(|path| path.to_string()).collect::<Vec<_>>().join(", "))),
    }
}
