//! What a manifest depends on, under whatever name.

use toml_edit::{DocumentMut, Item, TableLike};

/// A dependency on `package`, by whatever name, in one of these tables of the manifest or of its platforms. `shared`: the
/// workspace's manifest.
pub(super) fn dependency<'a>(
    manifest: &'a DocumentMut,
    shared: &DocumentMut,
    package: &str,
    tables: &[&str],
) -> Option<(&'a str, &'a Item)> {
    let platforms = manifest.get("target").and_then(Item::as_table_like).into_iter().flat_map(TableLike::iter);
    let platforms = platforms.filter_map(|(_, platform)| platform.as_table_like());
    let all = std::iter::once(manifest.as_table() as &dyn TableLike).chain(platforms);
    let tables = all.flat_map(|all| tables.iter().filter_map(|table| all.get(table)?.as_table_like()));
    tables.flat_map(TableLike::iter).find(|(name, item)| {
        let item = inherited(shared, name, item).unwrap_or(item);
        item.get("package").and_then(Item::as_str).unwrap_or(name) == package
    })
}

/// What the workspace says about a dependency with `workspace = true`.
pub(super) fn inherited<'a>(shared: &'a DocumentMut, name: &str, item: &Item) -> Option<&'a Item> {
    item.get("workspace")?.as_bool().filter(|inherits| *inherits)?;
    shared.get("workspace")?.get("dependencies")?.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependency_is_found_under_any_name_and_in_any_table() {
        let shared = "[workspace.dependencies]\nrt = { package = \"ddp-runtime\", version = \"1\" }\n".parse().unwrap();
        let found = |text: &str, tables: &[&str]| {
            let manifest: DocumentMut = text.parse().unwrap();
            dependency(&manifest, &shared, "ddp-runtime", tables).map(|(name, _)| name.to_owned())
        };
        for (text, name) in [
            ("[dependencies]\nddp-runtime = \"1\"\n", Some("ddp-runtime")),
            ("[dependencies.rt]\npackage = \"ddp-runtime\"\n", Some("rt")),
            ("[dependencies]\nddp = { package = \"ddp-runtime\" }\n", Some("ddp")),
            ("[target.'cfg(unix)'.dependencies]\nddp-runtime.path = \"x\"\n", Some("ddp-runtime")),
            ("[dependencies]\nrt.workspace = true\n", Some("rt")),
            ("[dependencies]\nrt = \"1\"\nddp-runtime = { package = \"other\" }\n", None),
            ("[dev-dependencies]\nddp-runtime = \"1\"\n", None),
        ] {
            assert_eq!(found(text, &["dependencies"]).as_deref(), name, "{text}");
        }
        let dev = "[target.x.dev-dependencies]\nddp-runtime = \"1\"\n";
        assert_eq!(found(dev, &["build-dependencies", "dev-dependencies"]).as_deref(), Some("ddp-runtime"));
    }
}
