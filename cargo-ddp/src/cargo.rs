//! cargo: where a project is, and building it.

mod store;

use std::ffi::OsString;
use std::io::{BufReader, Write, stderr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cargo_metadata::{Artifact, CargoOpt, Message, Metadata, MetadataCommand, TargetKind};

use crate::torch::libtorch_for;
use crate::vscode::Trainable;
use crate::{Error, Result, child};

/// The cargo that runs us, or the one on PATH.
pub fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A cargo project: the workspace that a manifest belongs to.
#[derive(Clone, Debug)]
pub struct Project {
    /// The workspace's folder, which has `.cargo/config.toml` and `.ddp/`.
    pub root: PathBuf,
    /// The folder for what is built.
    pub target: PathBuf,
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
    /// `-p`, which is among `flags`.
    pub package: Option<String>,
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
            cargo_metadata::Error::CargoMetadata { stderr } => Error::NoProject(cargos_error(&stderr)),
            cargo_metadata::Error::Io(source) => Error::Start { program: program().into(), source },
            other => Error::NoProject(other.to_string()),
        })?;
        let root = metadata.workspace_root.clone().into_std_path_buf();
        let target = metadata.target_directory.clone().into_std_path_buf();
        Ok(Self { root, target, metadata })
    }

    /// `package.metadata` of the package that the selection runs: the one chosen with `-p`, else the one whose folder this
    /// is, else the only one. Null when it can't be told.
    pub fn package_metadata(&self, selection: &Selection) -> &serde_json::Value {
        let packages = self.metadata.workspace_packages();
        let here = std::env::current_dir().unwrap_or_default();
        let folder = |package: &cargo_metadata::Package| {
            package.manifest_path.clone().parent().map(|f| f.as_std_path().to_owned())
        };
        let manifest = selection.manifest_path.as_deref().and_then(|path| std::path::absolute(path).ok());
        let chosen = packages.iter().find(|package| match (&selection.package, &manifest) {
            (Some(name), _) => package.name.as_str() == name,
            (None, Some(manifest)) => package.manifest_path.as_std_path() == manifest,
            (None, None) => false,
        });
        let nearest = || {
            let around = packages.iter().filter_map(|package| Some((folder(package)?, package)));
            let around = around.filter(|(folder, _)| here.starts_with(folder));
            around.max_by_key(|(folder, _)| folder.components().count()).map(|(_, package)| package)
        };
        let only = || if let [one] = packages.as_slice() { Some(one) } else { None };
        let package = if selection.package.is_some() || manifest.is_some() { chosen } else { nearest().or_else(only) };
        package.map_or(&serde_json::Value::Null, |package| &package.metadata)
    }

    /// The binaries and examples of packages that depend on ddp-runtime, and its own, each with its package's name.
    pub fn trainable(&self) -> Vec<(String, Trainable)> {
        let trains = |package: &&cargo_metadata::Package| {
            package.name == "ddp-runtime" || package.dependencies.iter().any(|other| other.name == "ddp-runtime")
        };
        let packages = self.metadata.workspace_packages().into_iter().filter(trains);
        let targets = packages.flat_map(|package| {
            let left_out = package.metadata["ddp"]["vscode"] == false;
            let is_root = package.manifest_path.parent() == Some(&self.metadata.workspace_root);
            let runs = |kind: TargetKind| package.targets.iter().filter(move |target| target.kind.contains(&kind));
            let both = runs(TargetKind::Bin).chain(runs(TargetKind::Example));
            both.map(move |target| {
                let name = package.name.to_string();
                let package = (!is_root).then(|| name.clone());
                let (example, on_request) = (target.is_example(), target.is_example() || left_out);
                (name, Trainable { name: target.name.clone(), example, on_request, package })
            })
        });
        targets.collect()
    }

    /// The names of the workspace's binaries.
    pub fn binaries(&self) -> Vec<String> {
        let targets = self.metadata.workspace_packages().into_iter().flat_map(|package| &package.targets);
        targets.filter(|target| target.is_bin()).map(|target| target.name.clone()).collect()
    }

    /// Builds the selection, with cargo's own messages on stderr, and gives the executable to run.
    ///
    /// # Errors
    /// [`Error::Build`] when cargo fails (it has said why), [`Error::NoBinary`] and [`Error::ManyBinaries`].
    pub fn build(&self, selection: &Selection) -> Result<PathBuf> {
        let mut build = Command::new(program());
        build.args(["build", "--message-format=json-render-diagnostics"]).args(&selection.flags);
        if let Some(path) = &selection.manifest_path {
            build.arg("--manifest-path").arg(path);
        }
        build.env("LIBTORCH", libtorch_for(&self.root)).stdin(Stdio::null()).stdout(Stdio::piped());
        child::dies_with_parent(&mut build);
        tracing::debug!(command = ?build, "building");
        let start = |source| Error::Start { program: program().into(), source };
        let mut cargo = build.spawn().map_err(start)?;

        let mut built = Vec::new();
        if let Some(stdout) = cargo.stdout.take() {
            for message in Message::parse_stream(BufReader::new(stdout)) {
                match message.map_err(Error::system("can't read cargo's messages"))? {
                    Message::CompilerArtifact(artifact) => built.push(artifact),
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
        self.pick(&built, selection)
    }

    /// The executable that `cargo run` with this selection would run.
    fn pick(&self, built: &[Artifact], selection: &Selection) -> Result<PathBuf> {
        let runnable = |artifact: &&Artifact| {
            artifact.target.kind.iter().any(|kind| matches!(kind, TargetKind::Bin | TargetKind::Example))
                && artifact.executable.is_some()
        };
        let mut found: Vec<&Artifact> = built.iter().filter(runnable).collect();
        match &selection.target {
            Some(name) => found.retain(|artifact| artifact.target.name == *name),
            None => found.retain(|artifact| artifact.target.is_bin()),
        }
        if found.len() > 1 {
            let default = |artifact: &&Artifact| {
                let package = self.metadata.packages.iter().find(|package| package.id == artifact.package_id);
                package.is_some_and(|package| package.default_run.as_ref() == Some(&artifact.target.name))
            };
            if let Some(&one) = found.iter().find(|artifact| default(artifact)) {
                found = vec![one];
            }
        }
        match found.as_slice() {
            [] => Err(Error::NoBinary),
            [one] => Ok(one.executable.clone().unwrap_or_default().into_std_path_buf()),
            many => {
                let mut names: Vec<_> = many.iter().map(|artifact| artifact.target.name.as_str()).collect();
                names.sort_unstable();
                Err(Error::ManyBinaries(names.join(", ")))
            }
        }
    }
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
