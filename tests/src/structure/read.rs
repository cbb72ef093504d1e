//! Reads the definitions, imports and paths of a source file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemStatic, ItemUse, Macro, Meta, UseTree, Visibility};

/// A name that a `use` brings in.
#[derive(Clone)]
pub(super) struct Import {
    pub path: Vec<String>,
    pub alias: String,
    pub is_glob: bool,
    pub is_reexport: bool,
}

/// All source files below `folder`, by their paths below `src`.
pub(super) fn read_folder(src: &Path, folder: &Path, sources: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|err| panic!("{}: {err}", folder.display())) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_folder(src, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(src).unwrap().to_str().unwrap().to_owned();
            sources.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}

/// The names that an item defines. (A module's name is that of a child.)
pub(super) fn names_of(item: &Item) -> Vec<String> {
    let one = |ident: &syn::Ident| vec![ident.to_string()];
    match item {
        Item::Const(item) => one(&item.ident),
        Item::Enum(item) => one(&item.ident),
        Item::Fn(item) => one(&item.sig.ident),
        Item::Static(item) => one(&item.ident),
        Item::Struct(item) => one(&item.ident),
        Item::Trait(item) => one(&item.ident),
        Item::TraitAlias(item) => one(&item.ident),
        Item::Type(item) => one(&item.ident),
        Item::Union(item) => one(&item.ident),
        Item::Macro(item) => {
            let mut names: Vec<String> = item.ident.iter().map(ToString::to_string).collect();
            names.extend(statics_in(item.mac.tokens.clone()));
            names
        }
        Item::ForeignMod(foreign) => {
            let name = |item: &syn::ForeignItem| match item {
                syn::ForeignItem::Fn(item) => Some(item.sig.ident.to_string()),
                syn::ForeignItem::Static(item) => Some(item.ident.to_string()),
                syn::ForeignItem::Type(item) => Some(item.ident.to_string()),
                _ => None,
            };
            foreign.items.iter().filter_map(name).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether the code is compiled for tests or documentation only.
fn is_excluded(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let Meta::List(list) = &attribute.meta else { return false };
        let words: Vec<String> = list.tokens.clone().into_iter().map(|token| token.to_string()).collect();
        !words.iter().any(|word| word == "not")
            && list.tokens.clone().into_iter().any(|token| has_word(&token, &["test", "doctest", "doc"]))
    })
}

fn has_word(token: &TokenTree, words: &[&str]) -> bool {
    match token {
        TokenTree::Ident(ident) => words.iter().any(|word| ident == word),
        TokenTree::Group(group) => group.stream().into_iter().any(|token| has_word(&token, words)),
        _ => false,
    }
}

/// The names after `static` in a macro's tokens.
fn statics_in(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let pairs = tokens
        .windows(2)
        .filter(|pair| matches!(pair, [TokenTree::Ident(first), TokenTree::Ident(_)] if first == "static"));
    pairs.map(|pair| pair[1].to_string()).collect()
}

/// The content of a module, without the modules in it.
#[derive(Default)]
pub(super) struct Collector {
    pub imports: Vec<Import>,
    /// Paths in its code.
    pub uses: BTreeSet<Vec<String>>,
    pub statics: Vec<String>,
    /// Absolute paths in its texts: `/proc/self/status`.
    pub files: BTreeSet<String>,
    /// Modules in it, which are read on their own.
    pub modules: Vec<ItemMod>,
}

impl Collector {
    fn add_use(&mut self, tree: &UseTree, prefix: &[String], is_reexport: bool) {
        let with = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        let mut add = |path: Vec<String>, alias: String, is_glob: bool| {
            self.imports.push(Import { path, alias, is_glob, is_reexport });
        };
        match tree {
            UseTree::Path(path) => self.add_use(&path.tree, &with(&path.ident), is_reexport),
            UseTree::Name(name) if name.ident == "self" => {
                add(prefix.to_vec(), prefix.last().cloned().unwrap_or_default(), false);
            }
            UseTree::Name(name) => add(with(&name.ident), name.ident.to_string(), false),
            UseTree::Rename(rename) if rename.ident == "self" => add(prefix.to_vec(), rename.rename.to_string(), false),
            UseTree::Rename(rename) => add(with(&rename.ident), rename.rename.to_string(), false),
            UseTree::Glob(_) => add(prefix.to_vec(), String::new(), true),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_use(tree, prefix, is_reexport)),
        }
    }

    fn add_text(&mut self, text: &str) {
        self.files.extend(text.starts_with('/').then(|| text.to_owned()));
    }

    /// Paths in tokens that nobody has parsed: names with `::` between them.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.uses.extend((!path.is_empty()).then(|| std::mem::take(&mut path)));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.uses.extend((!path.is_empty()).then(|| std::mem::take(&mut path)));
                    colons = 0;
                    match other {
                        TokenTree::Group(group) => self.add_tokens(group.stream()),
                        TokenTree::Literal(literal) => self.add_text(literal.to_string().trim_matches('"')),
                        _ => {}
                    }
                }
            }
        }
        self.uses.extend((!path.is_empty()).then_some(path));
    }
}

impl<'ast> Visit<'ast> for Collector {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_excluded(attributes_of(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let excluded = matches!(item, syn::ImplItem::Fn(function) if is_excluded(&function.attrs));
        if !excluded {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.modules.push(module.clone());
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_use(&item.tree, &[], !matches!(item.vis, Visibility::Inherited));
    }

    fn visit_item_static(&mut self, item: &'ast ItemStatic) {
        self.statics.push(item.ident.to_string());
        visit::visit_item_static(self, item);
    }

    fn visit_foreign_item_static(&mut self, item: &'ast syn::ForeignItemStatic) {
        self.statics.push(item.ident.to_string());
        visit::visit_foreign_item_static(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.uses.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_lit_str(&mut self, text: &'ast syn::LitStr) {
        self.add_text(&text.value());
    }

    fn visit_visibility(&mut self, _: &'ast Visibility) {} // `pub(in crate::data)` imports nothing

    fn visit_attribute(&mut self, _: &'ast Attribute) {} // derives and lints are other crates'

    fn visit_macro(&mut self, call: &'ast Macro) {
        self.statics.extend(statics_in(call.tokens.clone()));
        self.add_tokens(call.tokens.clone());
        visit::visit_macro(self, call);
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
