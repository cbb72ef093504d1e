//! cargo: where a project is, and building it.

mod config;
mod host;
mod runner;
mod select;
mod settings;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufReader, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cargo_metadata::semver::Version;
use cargo_metadata::{Artifact, CargoOpt, Message, Metadata, MetadataCommand};

use crate::os::child;
use crate::project::libtorch::libtorch_for;
use crate::project::shared::Sharing;
use crate::project::trainable::Trainable;
use crate::{Error, Result};

pub(in crate::project) use config::included;
pub use config::{BuildConfig, BuildTarget, TARGET_DIR_VARIABLES, TARGET_VARIABLE, home};
pub use host::host;
use select::Chosen;
pub use settings::{SettingsTable, SettingsTables};

/// The cargo that runs us, or the one on PATH.
pub fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Whether this cargo reads other files that its configuration includes, which came with 1.94. Older ones refuse such a
/// configuration.
pub fn reads_included_files() -> bool {
    let output = Command::new(program()).arg("-V").stdin(Stdio::null()).stderr(Stdio::null()).output();
    output.is_ok_and(|output| includes(&String::from_utf8_lossy(&output.stdout)))
}

/// The same, by the version that `cargo -V` prints.
fn includes(version: &str) -> bool {
    let number = version.split_whitespace().nth(1).unwrap_or_default();
    let number = number.split('-').next().unwrap_or_default();
    Version::parse(number).is_ok_and(|version| version >= Version::new(1, 94, 0))
}

/// A cargo project: the workspace that a manifest belongs to.
#[derive(Clone, Debug)]
pub struct Project {
    /// The workspace's folder, which has `.cargo/config.toml` and `.ddp/`.
    pub root: PathBuf,
    /// The folder for what is built.
    pub target: PathBuf,
    /// The folder for intermediate files (`build.build-dir`): the same, unless it is configured.
    pub build: PathBuf,
    metadata: Metadata,
}

/// What to build: cargo's own selection flags.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// `--manifest-path`.
    pub manifest_path: Option<PathBuf>,
    /// All others, as cargo takes them.
    pub flags: Vec<OsString>,
    /// `--bin` or `--example`, which are among `flags`: what to run.
    pub target: Option<String>,
    /// `target` is an example.
    pub example: bool,
    /// `-p`, which is among `flags`.
    pub package: Option<String>,
    /// `--target`, which is among `flags`.
    pub platform: Option<String>,
    /// `--profile` or `--release`, which is among `flags`.
    pub profile: Option<String>,
    /// `--target-dir` is among `flags`.
    pub elsewhere: bool,
    /// cargo prints its warnings and errors only.
    pub quiet: bool,
}

impl Project {
    /// The project that the manifest (or the current folder) belongs to.
    ///
    /// # Errors
    /// [`Error::NoProject`] with cargo's reason.
    pub fn find(manifest_path: Option<&Path>) -> Result<Self> {
        let mut command = MetadataCommand::new();
        command.cargo_path(program()).no_deps().features(CargoOpt::AllFeatures);
        if let Some(path) = manifest_path {
            command.manifest_path(path);
        }
        let metadata = command.exec().map_err(|err| match err {
            cargo_metadata::Error::CargoMetadata { stderr } => refused(manifest_path, &stderr),
            cargo_metadata::Error::Io(source) => Error::Start { program: program().into(), source },
            other => Error::BadProject(other.to_string()),
        })?;
        let root = metadata.workspace_root.clone().into_std_path_buf();
        let target = metadata.target_directory.clone().into_std_path_buf();
        let build = metadata.build_directory.clone().map_or_else(|| target.clone(), |path| path.into_std_path_buf());
        Ok(Self { root, target, build, metadata })
    }

    /// Whether cargo's ID of a package is that of a workspace member.
    pub(super) fn has_member(&self, id: &str) -> bool {
        self.metadata.workspace_members.iter().any(|member| member.repr == id)
    }

    /// Gives a project that was never built, or not with these dependencies, what earlier builds of other projects have left.
    /// Returns the number of crates and build scripts that need not be compiled.
    pub fn seed(&self, profile: Option<&str>) -> usize {
        let platforms = BuildConfig::read(&self.root, |name| std::env::var_os(name)).unwrap_or_default().targets;
        let platforms: Vec<_> = platforms.iter().map(BuildTarget::folder).collect();
        Sharing::of(self, profile, &platforms).map_or(0, |sharing| sharing.seed())
    }

    /// The binaries and examples of packages that depend on ddp-runtime, and its own, each with its package's name.
    pub fn trainable(&self) -> Vec<(String, Trainable)> {
        let trains = |package: &&cargo_metadata::Package| {
            package.name == "ddp-runtime" || package.dependencies.iter().any(|other| other.name == "ddp-runtime")
        };
        let members = self.metadata.workspace_packages();
        let alone = members.len() == 1;
        let packages = members.into_iter().filter(trains);
        let targets = packages.flat_map(|package| {
            let left_out = package.metadata["ddp"]["vscode"] == false;
            let is_root = package.manifest_path.parent() == Some(&self.metadata.workspace_root);
            // At the root of a workspace cargo builds the default members, which may be others.
            let is_default = self.is_only_default(package);
            let runs = |example| {
                package
                    .targets
                    .iter()
                    .filter(move |target| select::is_program(target) && target.is_example() == example)
            };
            runs(false).chain(runs(true)).map(move |target| {
                let name = package.name.to_string();
                let (example, on_request) = (target.is_example(), target.is_example() || left_out);
                let trainable = Trainable {
                    name: target.name.clone(),
                    label: target.name.clone(),
                    example,
                    on_request,
                    package: (!(is_root && (alone || is_default))).then(|| name.clone()),
                    features: select::features_to_turn_on(package, target),
                    package_features: package.features.keys().cloned().collect(),
                    workers: None,
                };
                (name, trainable)
            })
        });
        let mut targets: Vec<_> = targets.collect();
        tell_namesakes_apart(&mut targets);
        targets
    }

    /// Whether cargo, started at the workspace's root, builds this package and no other.
    fn is_only_default(&self, package: &cargo_metadata::Package) -> bool {
        let root = &self.metadata.workspace_root;
        let manifest = std::fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
        let manifest: toml::Table = manifest.trim_start_matches('\u{feff}').parse().unwrap_or_default();
        let listed = manifest.get("workspace").is_some_and(|workspace| workspace.get("default-members").is_some());
        // A root that is a package is the only default member, unless the workspace lists some.
        !listed && package.manifest_path.parent() == Some(root)
    }

    /// The folders that have a `debug` and a `release`: `target/`, and those below it for platforms in cargo's
    /// configuration.
    pub fn output_folders(&self) -> Vec<PathBuf> {
        let platforms = BuildConfig::read(&self.root, |name| std::env::var_os(name)).unwrap_or_default().targets;
        let below = platforms.iter().map(|platform| self.target.join(platform.folder()));
        std::iter::once(self.target.clone()).chain(below).collect()
    }

    /// The names of the workspace's binaries.
    pub fn binaries(&self) -> Vec<String> {
        let targets = self.metadata.workspace_packages().into_iter().flat_map(|package| &package.targets);
        targets.filter(|target| target.is_bin()).map(|target| target.name.clone()).collect()
    }

    /// Sees that the selection is one program, before anything is built.
    ///
    /// # Errors
    /// [`Error::BadOption`] for a pattern, [`Error::NoBinary`], [`Error::ManyBinaries`] and [`Error::ManyPlatforms`].
    pub fn check(&self, selection: &Selection) -> Result<()> {
        selection.check_names()?;
        self.choose(selection)?;
        let here = std::env::current_dir().unwrap_or_default();
        // What can't be read here, cargo says when it builds.
        let platforms = BuildConfig::read(&here, |name| std::env::var_os(name)).unwrap_or_default().targets;
        if selection.platform.is_none() && platforms.len() > 1 {
            let names: Vec<_> = platforms.into_iter().map(|platform| platform.name).collect();
            return Err(Error::ManyPlatforms(names.join(", ")));
        }
        Ok(())
    }

    /// What cargo runs the selection with: a program and its first arguments, or nothing.
    ///
    /// # Errors
    /// [`Error::BadManifest`] when several runners apply.
    pub fn runner(&self, selection: &Selection) -> Result<Vec<OsString>> {
        let here = std::env::current_dir().unwrap_or_default();
        let variable = |name: &str| std::env::var_os(name);
        let config = BuildConfig::read(&here, variable).unwrap_or_default();
        let asked = selection.platform.as_ref().filter(|name| *name != "host-tuple");
        let asked = asked.map(|name| BuildTarget { name: name.clone(), source: PathBuf::new() });
        let platform = match &selection.platform {
            Some(_) => asked,
            None => config.targets.into_iter().next(),
        };
        runner::choose(&config.runners, platform.map(|platform| platform.folder()).as_deref(), &here, variable)
    }

    /// Builds the selection, with cargo's own messages on stderr, and gives the executable to run.
    ///
    /// # Errors
    /// [`Error::Build`] when cargo fails (it has said why), and those of [`check`](Self::check), before.
    pub fn build(&self, selection: &Selection) -> Result<PathBuf> {
        self.check(selection)?;
        let chosen = self.choose(selection)?;
        let mut build = Command::new(program());
        build.args(["build", "--message-format=json-render-diagnostics"]).args(&selection.flags);
        if let Some(path) = &selection.manifest_path {
            build.arg("--manifest-path").arg(path);
        }
        if let (Some(chosen), None) = (&chosen, &selection.target) {
            // Without a name, cargo skips a binary whose features are off, where `cargo run` says so.
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
            sharing.keep();
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
        // cargo does not tell where `--target-dir` leads.
        (!selection.elsewhere).then(|| Sharing::of(self, selection.profile.as_deref(), &platforms)).flatten()
    }
}

/// The executable of the program that was chosen.
fn pick(built: &[Artifact], selection: &Selection, chosen: Option<&Chosen>) -> Result<PathBuf> {
    let is_chosen = |artifact: &Artifact| match chosen {
        Some(Chosen { package, name, example }) => {
            artifact.package_id == *package && artifact.target.name == *name && artifact.target.is_example() == *example
        }
        // cargo knows a name that we don't.
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

/// Gives binaries and examples that have the same name each a label of its own.
fn tell_namesakes_apart(targets: &mut [(String, Trainable)]) {
    let all: Vec<(String, String, bool)> =
        targets.iter().map(|(package, target)| (package.clone(), target.name.clone(), target.example)).collect();
    for (package, target) in targets {
        let others = || all.iter().filter(|(_, name, _)| *name == target.name);
        let elsewhere = others().any(|(other, ..)| other != package);
        let both_kinds = others().any(|(_, _, example)| *example != target.example);
        let words = [elsewhere.then(|| package.clone()), (both_kinds && target.example).then(|| "example".to_owned())];
        let words: Vec<String> = words.into_iter().flatten().collect();
        if !words.is_empty() {
            target.label = format!("{} ({})", target.name, words.join(" "));
        }
    }
}

/// Why cargo gives no metadata: there is no project, or one that it can't read.
fn refused(manifest_path: Option<&Path>, stderr: &str) -> Error {
    let here = std::env::current_dir().unwrap_or_default();
    let exists = match manifest_path {
        Some(path) => path.exists(),
        None => here.ancestors().any(|folder| folder.join("Cargo.toml").symlink_metadata().is_ok()),
    };
    if exists { Error::BadProject(whole_error(stderr)) } else { Error::NoProject(cargos_error(stderr)) }
}

/// All that cargo says: where the error is, and the lines of the file around it.
fn whole_error(stderr: &str) -> String {
    let text = stderr.trim();
    let start = text.find("error: ").map_or(0, |at| at + "error: ".len());
    text[start..].to_owned()
}

/// cargo's `error: …` line without the word, and its last cause.
fn cargos_error(stderr: &str) -> String {
    let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = lines.iter().find_map(|line| line.strip_prefix("error: ")).unwrap_or(stderr.trim());
    match lines.iter().rposition(|line| *line == "Caused by:").and_then(|at| lines.get(at + 1)) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_includes_files_from_1_94_on() {
        for (version, reads) in [
            ("cargo 1.91.1 (ea2d97820 2025-10-10)", false),
            ("cargo 1.93.1 (083ac5135 2025-12-15)", false),
            ("cargo 1.94.0 (85eff7c80 2026-01-15)", true),
            ("cargo 1.97.0-nightly (4d1f98451 2026-05-15)", true),
            ("", false),
        ] {
            assert_eq!(includes(version), reads, "{version}");
        }
    }
}
