//! Tied weights in safetensors files: a tensor with several names is in the file once, and the file's metadata has each further
//! name with the one that it is under. `safetensors.torch.save_model` writes that, and `load_model` reads it.

use std::collections::BTreeMap;

/// A key of metadata that is never a tensor's name: what framework the file is for.
const FORMAT: &str = "format";

/// The further names in a file's metadata, each with the name that the file has; `is_tensor` tells whether it has one.
pub fn aliases<'a>(
    metadata: impl IntoIterator<Item = (&'a String, &'a String)>,
    is_tensor: impl Fn(&str) -> bool,
) -> BTreeMap<String, String> {
    let is_alias = |(alias, name): &(&String, &String)| *alias != FORMAT && is_tensor(name) && !is_tensor(alias);
    metadata.into_iter().filter(is_alias).map(|(alias, name)| (alias.clone(), name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_names_of_tensors_only() {
        let metadata = [("format", "pt"), ("head", "wte"), ("wte", "pt"), ("author", "somebody"), ("step", "12")];
        let metadata: Vec<(String, String)> = metadata.map(|(a, b)| (a.to_owned(), b.to_owned())).into();
        let found = aliases(metadata.iter().map(|(a, b)| (a, b)), |name| ["pt", "wte"].contains(&name));
        assert_eq!(found, BTreeMap::from([("head".to_owned(), "wte".to_owned())]));
    }
}
