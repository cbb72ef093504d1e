//! JSON values that keep their order, and how they are printed into a file that has its own style.

use jsonc_parser::ast;

/// A value, with an object's keys in the order they are written in.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Bool(bool),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// A number or null, as it is written.
    Other(String),
}

/// How a file is written.
#[derive(Clone, Debug)]
pub(super) struct Style {
    /// The end of a line.
    pub(super) eol: &'static str,
    /// One level of indentation.
    pub(super) unit: String,
}

impl Default for Style {
    fn default() -> Self {
        Self { eol: "\n", unit: "  ".into() }
    }
}

/// What still fits on one line.
const WIDTH: usize = 110;

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl Json {
    pub(super) fn object<K: Into<String>>(pairs: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Object(pairs.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    pub(super) fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(texts.into_iter().map(|text| Self::Text(text.into())).collect())
    }

    /// What a file says. Of keys that are there twice, the last counts, as in VS Code.
    pub(super) fn from_ast(value: &ast::Value) -> Self {
        match value {
            ast::Value::StringLit(text) => Self::Text(text.value.to_string()),
            ast::Value::BooleanLit(value) => Self::Bool(value.value),
            ast::Value::NumberLit(number) => Self::Other(number.value.to_owned()),
            ast::Value::NullKeyword(_) => Self::Other("null".into()),
            ast::Value::Array(array) => Self::List(array.elements.iter().map(Self::from_ast).collect()),
            ast::Value::Object(object) => Self::of_object(object),
        }
    }

    pub(super) fn of_object(object: &ast::Object) -> Self {
        let mut pairs: Vec<(String, Self)> = Vec::new();
        for property in &object.properties {
            let (key, value) = (property.name.as_str(), Self::from_ast(&property.value));
            match pairs.iter_mut().find(|(known, _)| known == key) {
                Some((_, slot)) => *slot = value,
                None => pairs.push((key.to_owned(), value)),
            }
        }
        Self::Object(pairs)
    }

    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.pairs().iter().find(|(known, _)| known == key).map(|(_, value)| value)
    }

    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn list(&self) -> &[Self] {
        if let Self::List(values) = self { values } else { &[] }
    }

    pub(super) fn pairs(&self) -> &[(String, Self)] {
        if let Self::Object(pairs) = self { pairs } else { &[] }
    }

    pub(super) fn is_scalar(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Object(_))
    }

    /// As text, for a place whose line is indented by `indent`.
    pub(super) fn print(&self, indent: &str, style: &Style) -> String {
        let mut out = String::new();
        self.write(&mut out, indent, style);
        out
    }

    fn write(&self, out: &mut String, indent: &str, style: &Style) {
        match self {
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::Other(text) => out.push_str(text),
            Self::List(values) => {
                let short = self.on_one_line().filter(|line| indent.len() + line.len() < WIDTH);
                match short {
                    Some(line) => out.push_str(&line),
                    None => block(out, '[', ']', values, indent, style, |out, value, inner| {
                        value.write(out, inner, style);
                    }),
                }
            }
            Self::Object(pairs) if pairs.is_empty() => out.push_str("{}"),
            Self::Object(pairs) => block(out, '{', '}', pairs, indent, style, |out, (key, value), inner| {
                out.push_str(&quoted(key));
                out.push_str(": ");
                value.write(out, inner, style);
            }),
        }
    }

    /// A list of scalars.
    fn on_one_line(&self) -> Option<String> {
        let values = self.list();
        let parts = values.iter().map(|value| value.is_scalar().then(|| value.print("", &Style::default())));
        Some(format!("[{}]", parts.collect::<Option<Vec<_>>>()?.join(", ")))
    }
}

/// A string as JSON writes it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn block<T>(
    out: &mut String,
    open: char,
    close: char,
    items: &[T],
    indent: &str,
    style: &Style,
    mut write: impl FnMut(&mut String, &T, &str),
) {
    let inner = format!("{indent}{}", style.unit);
    out.push(open);
    for (at, item) in items.iter().enumerate() {
        out.push_str(if at == 0 { "" } else { "," });
        out.push_str(style.eol);
        out.push_str(&inner);
        write(out, item, &inner);
    }
    out.push_str(style.eol);
    out.push_str(indent);
    out.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_printer_keeps_short_lists_on_one_line_and_escapes_strings() {
        let value = Json::object([
            ("a \"b\"", Json::texts(["x", "\\ \n"])),
            ("o", Json::List(vec![Json::object([("k", true.into())])])),
            ("e", Json::object([] as [(&str, Json); 0])),
        ]);
        let text = value.print("", &Style::default());
        assert_eq!(
            text,
            "{\n  \"a \\\"b\\\"\": [\"x\", \"\\\\ \\n\"],\n  \"o\": [\n    {\n      \"k\": true\n    }\n  ],\n  \"e\": {}\n}"
        );
        let long = Json::texts(["x".repeat(80), "y".repeat(40)]).print("", &Style::default());
        assert_eq!(long.lines().count(), 4);
    }
}
