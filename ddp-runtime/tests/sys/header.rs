//! What a C header declares.

use std::collections::BTreeMap;

use super::declared::{Declared, Fields, function_type};

/// A struct that only debuggers read.
pub(crate) const FOR_DEBUGGERS: &str = "ddp_debug_layout";

/// A header's enumerations, and everything else in it.
pub(crate) struct Header {
    pub(crate) declared: Declared,
    pub(crate) enums: BTreeMap<String, Vec<(String, i64)>>,
}

impl Header {
    pub(crate) fn parse(text: &str) -> Self {
        let code: String = text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
        let code = &code[code.find("extern \"C\" {").expect("an extern \"C\" block") + 12..];
        let mut tokens = Tokens(tokens(code));
        let mut header = Self { declared: Declared::default(), enums: BTreeMap::new() };
        while tokens.peek() != "}" {
            header.item(&mut tokens);
        }
        header
    }

    fn item(&mut self, tokens: &mut Tokens) {
        match tokens.peek() {
            "enum" => {
                tokens.next();
                let name = tokens.next();
                tokens.expect(&[":", "int32_t", "{"]);
                let mut values = Vec::new();
                while tokens.peek() != "}" {
                    let constant = tokens.next();
                    tokens.expect(&["="]);
                    values.push((constant, tokens.next().parse().expect("a number")));
                    tokens.skip(",");
                }
                tokens.expect(&["}", ";"]);
                self.declared.constants.extend(values.iter().cloned());
                self.enums.insert(name, values);
            }
            "struct" => {
                tokens.next();
                let name = tokens.next();
                let mut fields = Vec::new();
                if tokens.skip("{") {
                    while tokens.peek() != "}" {
                        self.fields(tokens, &mut fields);
                    }
                    tokens.next();
                }
                tokens.expect(&[";"]);
                self.declared.structs.insert(name, fields);
            }
            "extern" => {
                tokens.expect(&["extern", "const", FOR_DEBUGGERS]);
                self.declared.statics.push(tokens.next());
                tokens.expect(&[";"]);
            }
            _ => {
                let result = self.type_of(tokens);
                let name = tokens.next();
                let parameters = self.parameters(tokens);
                assert_eq!(tokens.next(), "noexcept", "{name} must not throw into Rust");
                tokens.expect(&[";"]);
                self.declared.functions.insert(name, (parameters, result));
            }
        }
    }

    /// `double lr, momentum;`, `char magic[8];` or a pointer to a function.
    fn fields(&self, tokens: &mut Tokens, fields: &mut Fields) {
        let of = self.type_of(tokens);
        if tokens.peek() == "(" {
            fields.push(self.function_pointer(tokens, &of));
        } else {
            loop {
                let name = tokens.next();
                let array = tokens.skip("[").then(|| tokens.next());
                match array {
                    Some(length) => {
                        tokens.expect(&["]"]);
                        fields.push((name, format!("[{of};{length}]")));
                    }
                    None => fields.push((name, of.clone())),
                }
                if !tokens.skip(",") {
                    break;
                }
            }
        }
        tokens.expect(&[";"]);
    }

    /// `(*name)(parameters)`, after the type of the result.
    fn function_pointer(&self, tokens: &mut Tokens, result: &str) -> (String, String) {
        tokens.expect(&["(", "*"]);
        let name = tokens.next();
        tokens.expect(&[")"]);
        let parameters = self.parameters(tokens);
        (name, function_type(&parameters, result))
    }

    fn parameters(&self, tokens: &mut Tokens) -> Fields {
        tokens.expect(&["("]);
        let mut parameters = Vec::new();
        while tokens.peek() != ")" {
            let of = self.type_of(tokens);
            let parameter = match tokens.peek() {
                "(" => self.function_pointer(tokens, &of),
                _ => (tokens.next(), of),
            };
            parameters.push(parameter);
            tokens.skip(",");
        }
        tokens.next();
        parameters
    }

    /// `const char* const*` as `*const *const c_char`.
    fn type_of(&self, tokens: &mut Tokens) -> String {
        let mut is_const = tokens.skip("const");
        let base = tokens.next();
        let mut of = match base.as_str() {
            "bool" => "bool",
            "char" => "c_char",
            "double" => "f64",
            "void" => "c_void",
            "int32_t" => "i32",
            "int64_t" => "i64",
            "uint16_t" => "u16",
            "uint32_t" => "u32",
            "uint64_t" => "u64",
            "size_t" => "usize",
            "ddp_tensor" => "C_tensor",
            name if self.enums.contains_key(name) => "i32",
            name if self.declared.structs.contains_key(name) => name,
            unknown => panic!("{unknown} is not a type that this test knows"),
        }
        .to_owned();
        while tokens.skip("*") {
            of = format!("*{} {of}", if is_const { "const" } else { "mut" });
            is_const = tokens.skip("const");
        }
        if of == "c_void" { "()".into() } else { of }
    }
}

/// Names, numbers and signs.
pub(crate) fn tokens(code: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in code.chars() {
        let is_word = c.is_alphanumeric() || c == '_';
        match tokens.last_mut() {
            Some(last) if is_word && in_word => last.push(c),
            _ if c.is_whitespace() => {}
            _ => tokens.push(c.to_string()),
        }
        in_word = is_word;
    }
    tokens.reverse();
    tokens
}

/// The next token is the last one.
pub(crate) struct Tokens(Vec<String>);

impl Tokens {
    fn peek(&self) -> &str {
        self.0.last().expect("the header continues")
    }

    fn next(&mut self) -> String {
        self.0.pop().expect("the header continues")
    }

    fn skip(&mut self, token: &str) -> bool {
        let found = self.peek() == token;
        if found {
            self.next();
        }
        found
    }

    fn expect(&mut self, tokens: &[&str]) {
        for token in tokens {
            assert_eq!(self.next(), **token, "before {:?}", self.0.iter().rev().take(8).collect::<Vec<_>>());
        }
    }
}
