//! Reads the modules of a crate and what they import from each other, for the tests of its structure.
//!
//! A file imports another one if it names something that is defined there: in a `use`, in a path in its code, or in the
//! tokens of a macro call. Names are followed through `use` and re-exports to their definition. `mod child;` and the
//! re-export of a child's item (`pub use child::Item;`) are no imports, and neither is code for tests or documentation
//! (`#[cfg(test)]`).

mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use syn::Item;
use syn::visit::Visit;

use read::{Collector, Import, names_of, read_folder};

/// The modules of a crate.
pub struct Tree {
    files: Vec<File>,
    modules: Vec<Module>,
}

/// A source file. Inline modules belong to the file that they are in.
struct File {
    /// Relative to the folder of the sources.
    path: String,
    /// Of the module that the file is: `["dist", "store"]`.
    module: Vec<String>,
    statics: Vec<String>,
    /// Absolute paths that its texts begin with.
    paths: BTreeSet<String>,
}

#[derive(Default)]
struct Module {
    file: usize,
    parent: Option<usize>,
    children: HashMap<String, usize>,
    items: BTreeSet<String>,
    imports: Vec<Import>,
    /// Paths in its code.
    uses: BTreeSet<Vec<String>>,
}

/// The target of a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Module(usize),
    /// Something that this module defines.
    Item(usize),
}

/// The texts of all source files below `src`, by their paths below it.
pub fn sources(src: &Path) -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    read_folder(src, src, &mut sources);
    sources
}

impl Tree {
    /// The crate whose root is `src/lib.rs`.
    pub fn read(src: &Path) -> Self {
        Self::parse(&sources(src))
    }

    /// The crate that these files make, by their paths below `src`.
    pub fn parse(sources: &BTreeMap<String, String>) -> Self {
        let mut tree = Self { files: Vec::new(), modules: Vec::new() };
        tree.add_file("lib.rs", Vec::new(), None, sources);
        tree
    }

    fn add_file(
        &mut self,
        path: &str,
        module: Vec<String>,
        parent: Option<usize>,
        sources: &BTreeMap<String, String>,
    ) -> usize {
        let text = sources.get(path).unwrap_or_else(|| panic!("there is no {path}"));
        let parsed = syn::parse_file(text).unwrap_or_else(|err| panic!("{path}: {err}"));
        let file = self.files.len();
        self.files.push(File { path: path.to_owned(), module, statics: Vec::new(), paths: BTreeSet::new() });
        self.add_module(file, parent, &parsed.items, sources)
    }

    fn add_module(
        &mut self,
        file: usize,
        parent: Option<usize>,
        items: &[Item],
        sources: &BTreeMap<String, String>,
    ) -> usize {
        let index = self.modules.len();
        self.modules.push(Module { file, parent, ..Module::default() });
        let mut collector = Collector::default();
        items.iter().for_each(|item| collector.visit_item(item));
        let Collector { imports, uses, statics, files, modules } = collector;
        self.modules[index].items = items.iter().flat_map(names_of).collect();
        self.modules[index].imports = imports;
        self.modules[index].uses = uses;
        self.files[file].statics.extend(statics);
        self.files[file].paths.extend(files);
        for child in modules {
            let name = child.ident.to_string();
            let added = match &child.content {
                Some((_, items)) => self.add_module(file, Some(index), items, sources),
                None => {
                    let mut module = self.files[file].module.clone();
                    module.push(name.clone());
                    let stem = module.join("/");
                    let path = [format!("{stem}.rs"), format!("{stem}/mod.rs")];
                    let path = path.iter().find(|path| sources.contains_key(*path));
                    let path =
                        path.unwrap_or_else(|| panic!("{} declares {name}, which has no file", self.files[file].path));
                    self.add_file(path, module, Some(index), sources)
                }
            };
            self.modules[index].children.insert(name, added);
        }
        index
    }

    /// Where one file imports from another, as the importing file, the other one, and what it names.
    fn edges(&self) -> BTreeMap<(usize, usize), String> {
        let mut edges = BTreeMap::new();
        for (index, module) in self.modules.iter().enumerate() {
            let imports = module.imports.iter().filter(|import| !self.is_reexport_of_child(index, import));
            for path in imports.map(|import| &import.path).chain(&module.uses) {
                let Some(Found::Item(origin)) = self.resolve(index, path, 0) else { continue };
                let (from, to) = (module.file, self.modules[origin].file);
                if from != to {
                    edges.entry((from, to)).or_insert_with(|| path.join("::"));
                }
            }
        }
        edges
    }

    fn is_reexport_of_child(&self, module: usize, import: &Import) -> bool {
        if !import.is_reexport {
            return false;
        }
        let (Some(Found::Item(mut origin)) | Some(Found::Module(mut origin))) = self.resolve(module, &import.path, 0)
        else {
            return false;
        };
        loop {
            match self.modules[origin].parent {
                _ if origin == module => return true,
                Some(parent) => origin = parent,
                None => return false,
            }
        }
    }

    /// Follows a path that is written in `module`. `None` for what is not this crate's.
    fn resolve(&self, module: usize, path: &[String], depth: usize) -> Option<Found> {
        let (first, mut rest) = path.split_first()?;
        let mut found = match first.as_str() {
            "crate" => Found::Module(0),
            "self" => Found::Module(module),
            "super" => Found::Module(self.modules[module].parent?),
            name => self.look_up(module, name, depth)?,
        };
        while let (Found::Module(at), Some((name, further))) = (found, rest.split_first()) {
            found = match name.as_str() {
                "super" => Found::Module(self.modules[at].parent?),
                "self" => Found::Module(at),
                name => self.look_up(at, name, depth)?,
            };
            rest = further;
        }
        Some(found)
    }

    /// The meaning of `name` in `module`.
    fn look_up(&self, module: usize, name: &str, depth: usize) -> Option<Found> {
        const DEEPEST: usize = 16;
        let scope = &self.modules[module];
        if let Some(child) = scope.children.get(name) {
            return Some(Found::Module(*child));
        }
        if scope.items.contains(name) {
            return Some(Found::Item(module));
        }
        if depth > DEEPEST {
            return None;
        }
        // `use name::…` names what it imports only if it imports a module of that name, too.
        let follows =
            |import: &&Import| import.path.first().is_none_or(|first| first != name) || import.path.len() == 1;
        let mut named =
            scope.imports.iter().filter(|import| !import.is_glob && import.alias == name).filter(follows).peekable();
        if named.peek().is_some() {
            // A name that is imported explicitly hides names from globs, also if it is from another crate.
            return named.find_map(|import| self.resolve(module, &import.path, depth + 1));
        }
        scope.imports.iter().filter(|import| import.is_glob).find_map(|import| {
            match self.resolve(module, &import.path, depth + 1)? {
                Found::Module(other) if other != module => self.look_up(other, name, depth + 1),
                _ => None,
            }
        })
    }

    /// Imports from a module further up. `layers` are modules from the bottom to the top, each with what is below it in the
    /// tree unless that is a layer of its own: `train::optim` can be below `snapshot`, and `train` above.
    /// The root file may import everything. A module that belongs to no layer, and a layer that is no module, is a
    /// finding as well.
    pub fn upward_imports(&self, layers: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        let layer_of = |file: &File| {
            let lengths = (1..=file.module.len()).rev();
            let mut prefixes = lengths.map(|length| file.module[..length].join("::"));
            prefixes.find_map(|prefix| layers.iter().position(|layer| *layer == prefix))
        };
        let mut seen = BTreeSet::new();
        for file in self.files.iter().filter(|file| !file.module.is_empty()) {
            match layer_of(file) {
                Some(layer) => drop(seen.insert(layer)),
                None => findings.push(format!("{} belongs to no layer", file.path)),
            }
        }
        let unknown = (0..layers.len()).filter(|layer| !seen.contains(layer));
        findings.extend(unknown.map(|layer| format!("the layer {} is no module", layers[layer])));
        for ((from, to), name) in self.edges() {
            let [from, to] = [from, to].map(|file| &self.files[file]);
            let is_upward = match (layer_of(from), layer_of(to)) {
                (Some(below), Some(above)) => above > below,
                (Some(_), None) => to.module.is_empty(),
                _ => false,
            };
            if is_upward {
                findings.push(format!("{} imports {name} from {}, which is above it", from.path, to.path));
            }
        }
        findings
    }

    /// Files that import each other in a circle, and likewise folders and files in a folder. (In the root folder, that is
    /// what layers are for.)
    pub fn cycles(&self) -> Vec<String> {
        let edges = self.edges();
        let name = |file: usize| self.files[file].path.clone();
        let by_file: BTreeMap<_, _> =
            edges.iter().map(|((from, to), what)| ((name(*from), name(*to)), what.clone())).collect();
        let mut findings: Vec<String> = circles(&by_file).into_values().collect();
        let folders: BTreeSet<&[String]> =
            self.files.iter().filter_map(|file| file.module.split_last().map(|(_, folder)| folder)).collect();
        for folder in folders.into_iter().filter(|folder| !folder.is_empty()) {
            let part = |file: usize| {
                let below = self.files[file].module.strip_prefix(folder)?;
                Some(format!("{}/{}", folder.join("/"), below.first().map_or("mod.rs", String::as_str)))
            };
            let is_folder = |part: &String| {
                self.files.iter().any(|file| {
                    file.module.len() > folder.len() + 1 && file.module[..=folder.len()].join("/") == **part
                })
            };
            let mut inside = BTreeMap::new();
            for ((from, to), what) in &edges {
                if let (Some(a), Some(b)) = (part(*from), part(*to))
                    && a != b
                {
                    inside.entry((a, b)).or_insert_with(|| format!("{what} in {}", name(*from)));
                }
            }
            // A circle of files alone was found above.
            let circles = circles(&inside).into_iter().filter(|(parts, _)| parts.iter().any(is_folder));
            findings.extend(circles.map(|(_, finding)| finding));
        }
        findings
    }

    /// All `static` items and thread-locals, as `file: NAME`.
    pub fn statics(&self) -> BTreeSet<String> {
        let statics = self.files.iter().flat_map(|file| file.statics.iter().map(move |name| (file, name)));
        statics.map(|(file, name)| format!("{}: {name}", file.path)).collect()
    }

    /// Where a file outside of the folder `allowed` names something of these crates or modules (`libc`, `std::os`), or a file below
    /// one of these folders (`/proc`).
    pub fn outside(&self, allowed: &str, names: &[&str]) -> Vec<String> {
        let mut findings = Vec::new();
        for (index, file) in self.files.iter().enumerate() {
            if file.module.first().is_some_and(|first| first == allowed) {
                continue;
            }
            let modules = self.modules.iter().filter(|module| module.file == index);
            let paths = modules.flat_map(|module| module.imports.iter().map(|import| &import.path).chain(&module.uses));
            let paths: BTreeSet<String> = paths.map(|path| path.join("::")).collect();
            for path in paths.iter().chain(&file.paths) {
                let separator = if path.starts_with('/') { "/" } else { "::" };
                let is_below = |name: &str| path == name || path.starts_with(&format!("{name}{separator}"));
                if names.iter().any(|name| is_below(name)) {
                    findings.push(format!("{} uses {path}", file.path));
                }
            }
        }
        findings
    }

    /// Whether the module in this path defines its last name, as debuggers write the path: without re-exports.
    pub fn defines(&self, path: &[&str]) -> bool {
        let Some((name, modules)) = path.split_last() else { return false };
        let mut at = 0;
        for module in modules {
            match self.modules[at].children.get(*module) {
                Some(child) => at = *child,
                None => return false,
            }
        }
        self.modules[at].items.contains(*name)
    }
}

/// Sets of nodes that reach each other, each with a text that names them and their edges.
fn circles(edges: &BTreeMap<(String, String), String>) -> BTreeMap<Vec<String>, String> {
    let mut targets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        targets.entry(from).or_default().push(to);
    }
    let reach = |start: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(node) = next.pop() {
            let fresh = targets.get(node).into_iter().flatten().filter(|target| seen.insert(**target));
            next.extend(fresh.copied().collect::<Vec<_>>());
        }
        seen
    };
    let reaches: BTreeMap<&str, BTreeSet<&str>> = targets.keys().map(|node| (*node, reach(node))).collect();
    let mutual = |a: &str, b: &str| {
        let goes = |a: &str, b: &str| reaches.get(a).is_some_and(|targets| targets.contains(b));
        goes(a, b) && goes(b, a)
    };
    let mut findings = BTreeMap::new();
    for node in reaches.keys().filter(|node| mutual(node, node)) {
        let members: Vec<&str> = reaches.keys().copied().filter(|other| mutual(node, other)).collect();
        let inside = edges.iter().filter(|((a, b), _)| members.contains(&a.as_str()) && members.contains(&b.as_str()));
        let lines: Vec<String> = inside.map(|((a, b), what)| format!("\n    {a} -> {b} ({what})")).collect();
        let finding = format!("circle of imports: {}{}", members.join(", "), lines.concat());
        findings.insert(members.into_iter().map(str::to_owned).collect(), finding);
    }
    findings
}
