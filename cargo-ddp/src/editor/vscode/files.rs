//! The four files, each from what it says now to what it is to say.

use std::path::Path;

use super::config::{Variant, attach, choose, step_input};
use super::debugger::Debugger;
use super::edit::{Change, Editor};
use super::entry::{Entry, Role};
use super::json::{Json, Style};
use super::merge::merge;
use super::source::Source;
use crate::Result;

/// What is to be there.
pub(super) struct Wanted<'a> {
    pub(super) debugger: Debugger,
    pub(super) variants: Vec<Variant<'a>>,
    /// Targets that exist, and whose entries stay unchanged.
    pub(super) untouched: Vec<&'a str>,
}

impl Wanted<'_> {
    fn configurations(&self) -> Vec<(Entry, Json)> {
        let mut all: Vec<_> = self.variants.iter().flat_map(Variant::configurations).collect();
        all.extend(self.attaches().then(|| attach(self.debugger)));
        all
    }

    fn attaches(&self) -> bool {
        self.debugger.opens_children() && !self.variants.is_empty()
    }

    fn inputs(&self) -> Vec<(Entry, Json)> {
        self.attaches().then(step_input).into_iter().collect()
    }

    fn compounds(&self) -> Vec<(Entry, Json)> {
        self.variants.iter().map(Variant::compound).collect()
    }

    fn tasks(&self) -> Vec<(Entry, Json)> {
        self.variants.iter().map(Variant::task).chain(self.attaches().then(choose)).collect()
    }

    /// The new content of one of our entries; `None` removes it.
    fn fate<'w>(&self, entry: &Entry, wanted: &'w [(Entry, Json)]) -> Fate<'w> {
        match wanted.iter().find(|(other, _)| other.is(entry)) {
            Some((_, value)) => Fate::Update(value),
            None if self.untouched.contains(&entry.target.as_str()) && entry.role != Role::Former => Fate::Stay,
            None => Fate::Go,
        }
    }
}

enum Fate<'a> {
    Update(&'a Json),
    Stay,
    Go,
}

/// `.vscode/launch.json`
pub(super) fn launch(path: &Path, before: Option<&str>, wanted: &Wanted) -> Result<Option<String>> {
    let (configurations, compounds, inputs) = (wanted.configurations(), wanted.compounds(), wanted.inputs());
    let lists = [
        List { key: "configurations", name: "name", entries: &configurations },
        List { key: "compounds", name: "name", entries: &compounds },
        List { key: "inputs", name: "id", entries: &inputs },
    ];
    file(path, before, wanted, "0.2.0", &lists)
}

/// `.vscode/tasks.json`
pub(super) fn tasks(path: &Path, before: Option<&str>, wanted: &Wanted) -> Result<Option<String>> {
    file(path, before, wanted, "2.0.0", &[List { key: "tasks", name: "label", entries: &wanted.tasks() }])
}

/// `.vscode/extensions.json`. `former` is a debugger that nothing needs any more.
pub(super) fn extensions(
    path: &Path,
    before: Option<&str>,
    debugger: Debugger,
    former: Option<Debugger>,
) -> Result<Option<String>> {
    let ours = ["rust-lang.rust-analyzer", debugger.extension()];
    let source = Source::parse(path, before.unwrap_or_default())?;
    let Some(root) = &source.root else {
        return Ok(Some(fresh(&source, &Json::object([("recommendations", Json::texts(ours))]))));
    };
    let (list, refused) = (source.list("recommendations")?, source.list("unwantedRecommendations")?);
    // Extensions' names know no case.
    let named = |array: Option<&jsonc_parser::ast::Array>, name: &str| {
        let elements = array.iter().flat_map(|array| &array.elements).map(Json::from_ast);
        elements.into_iter().any(|element| element.text().is_some_and(|text| text.eq_ignore_ascii_case(name)))
    };
    let missing = |name: &&str| !named(list, name) && !named(refused, name);
    let more: Vec<Json> = ours.iter().filter(|name| missing(name)).map(|name| Json::from(*name)).collect();
    let mut editor = Editor::new(source.text, &source.style);
    match list {
        Some(array) => {
            let changes = array.elements.iter().map(|element| match (Json::from_ast(element), former) {
                (Json::Text(text), Some(former)) if text.eq_ignore_ascii_case(former.extension()) => Change::Remove,
                _ => Change::Keep,
            });
            editor.list(array, &changes.collect::<Vec<_>>(), &more);
        }
        None if more.is_empty() => {}
        None => editor.add(root, &[("recommendations", Json::List(more))]),
    }
    Ok(Some(format!("{}{}", source.mark, editor.finish())))
}

/// `.vscode/settings.json`: what rust-analyzer needs, where the user has not decided.
pub(super) fn settings(path: &Path, before: Option<&str>) -> Result<Option<String>> {
    // rust-analyzer follows links, and would read all of libtorch behind `.ddp/libtorch`.
    let exclude = ("rust-analyzer.files.exclude", Json::texts([".ddp"]));
    let source = Source::parse(path, before.unwrap_or_default())?;
    let Some(root) = &source.root else { return Ok(Some(fresh(&source, &Json::object([exclude])))) };
    let mut editor = Editor::new(source.text, &source.style);
    if !source.has(exclude.0) && !source.has("rust-analyzer.files.excludeDirs") {
        editor.add(root, &[exclude]);
    }
    Ok(Some(format!("{}{}", source.mark, editor.finish())))
}

/// A list at the top of a file, and what is to be in it.
struct List<'a> {
    key: &'static str,
    /// The attribute that names an element.
    name: &'static str,
    entries: &'a [(Entry, Json)],
}

impl List<'_> {
    /// The entry that an element has the name of.
    fn entry(&self, element: &Json) -> Option<Entry> {
        let name = element.get(self.name)?.text()?;
        let entry = if self.key == "inputs" { Entry::parse_input(name) } else { Entry::parse(name) };
        entry.filter(|entry| self.takes(&entry.role))
    }

    /// Whether entries of such a role are ours in this list.
    fn takes(&self, role: &Role) -> bool {
        match role {
            Role::Build | Role::Choose => self.key == "tasks",
            Role::Compound => self.key == "compounds",
            Role::StepInput => self.key == "inputs",
            Role::Former => ["configurations", "compounds"].contains(&self.key),
            _ => self.key == "configurations",
        }
    }
}

fn file(path: &Path, before: Option<&str>, wanted: &Wanted, version: &str, lists: &[List]) -> Result<Option<String>> {
    let nothing = lists.iter().all(|list| list.entries.is_empty());
    let source = Source::parse(path, before.unwrap_or_default())?;
    let Some(root) = &source.root else {
        if nothing {
            return Ok(before.map(str::to_owned));
        }
        let values = |list: &List| Json::List(list.entries.iter().map(|(_, value)| value.clone()).collect());
        let lists = lists.iter().filter(|list| !list.entries.is_empty()).map(|list| (list.key, values(list)));
        return Ok(Some(fresh(&source, &Json::object([("version", version.into())].into_iter().chain(lists)))));
    };
    let mut editor = Editor::new(source.text, &source.style);
    let mut more = vec![];
    if !source.has("version") && !nothing {
        more.push(("version", Json::from(version)));
    }
    for list in lists {
        match source.list(list.key)? {
            Some(array) => {
                let found: Vec<Json> = array.elements.iter().map(Json::from_ast).collect();
                let changes: Vec<Change> = found.iter().map(|element| wanted.change(element, list, lists)).collect();
                let there: Vec<Entry> = found.iter().filter_map(|element| list.entry(element)).collect();
                let missing = list.entries.iter().filter(|(entry, _)| !there.iter().any(|other| other.is(entry)));
                editor.list(array, &changes, &missing.map(|(_, value)| value.clone()).collect::<Vec<_>>());
            }
            None if list.entries.is_empty() => {}
            None => {
                more.push((list.key, Json::List(list.entries.iter().map(|(_, value)| value.clone()).collect())));
            }
        }
    }
    editor.add(root, &more);
    Ok(Some(format!("{}{}", source.mark, editor.finish())))
}

impl Wanted<'_> {
    fn change(&self, element: &Json, list: &List, lists: &[List]) -> Change {
        if element.get(list.name).and_then(Json::text).is_none() {
            return Change::Keep;
        }
        match list.entry(element) {
            Some(entry) => match self.fate(&entry, list.entries) {
                Fate::Update(value) => Change::Set(merge(element, value, self.features_of(&entry))),
                Fate::Stay => Change::Keep,
                Fate::Go => Change::Remove,
            },
            // The user's own compounds get the current names of our configurations.
            None if list.key == "compounds" => self.with_members_renamed(element, lists),
            None => Change::Keep,
        }
    }

    /// All features that the package of an entry's target has.
    fn features_of(&self, entry: &Entry) -> &[String] {
        let variant = self.variants.iter().find(|variant| variant.target.label == entry.target);
        variant.map_or(&[], |variant| &variant.target.package_features)
    }

    fn with_members_renamed(&self, compound: &Json, lists: &[List]) -> Change {
        let configurations = lists.iter().find(|list| list.key == "configurations");
        let entries = configurations.map_or(&[][..], |list| list.entries);
        let renamed = |member: &Json| {
            let Some(entry) = member.text().and_then(Entry::parse) else { return Some(member.clone()) };
            match self.fate(&entry, entries) {
                Fate::Update(value) => value.get("name").cloned(),
                Fate::Stay => Some(member.clone()),
                Fate::Go => None,
            }
        };
        let mut pairs = compound.pairs().to_vec();
        for (key, value) in &mut pairs {
            if let ("configurations", Json::List(members)) = (key.as_str(), value) {
                *members = members.iter().filter_map(renamed).collect();
            }
        }
        let new = Json::Object(pairs);
        if new == *compound { Change::Keep } else { Change::Set(new) }
    }
}

/// The complete value, for an empty file.
fn fresh(source: &Source, value: &Json) -> String {
    let style = Style { eol: source.style.eol, ..Style::default() };
    let text = value.print("", &style) + style.eol;
    let comments = if source.text.trim().is_empty() { "" } else { source.text };
    let gap = if comments.is_empty() || comments.ends_with(['\n', '\r']) { "" } else { style.eol };
    format!("{}{comments}{gap}{text}", source.mark)
}
