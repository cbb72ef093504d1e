//! `src/sys` declares what `csrc/ddp.h` declares: the same functions, structs and constants, in both directions. The linker
//! compares names only.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use syn::{FnArg, ForeignItem, Item, Pat, PointerMutability, ReturnType, Type};

/// Types by name, each as Rust writes it: `*const *mut C_tensor`.
type Fields = Vec<(String, String)>;

/// What one side declares.
#[derive(Debug, Default, PartialEq)]
struct Declared {
    /// Parameters, and the type of the result.
    functions: BTreeMap<String, (Fields, String)>,
    /// Fields in their order; none for a struct that only pointers lead to.
    structs: BTreeMap<String, Fields>,
    constants: BTreeMap<String, i64>,
    /// Variables.
    statics: Vec<String>,
}

/// Pairs of a name in C and one in Rust.
type Variants = &'static [(&'static str, &'static str)];

/// Enumerations whose numbers are a Rust enum's: by enum in C, the Rust file, the enum, and its variants in C's order.
const MIRRORED: [(&str, &str, &str, Variants); 6] = [
    ("ddp_backend", "dist/process_group.rs", "Backend", &[("DDP_GLOO", "Gloo"), ("DDP_NCCL", "Nccl")]),
    (
        "ddp_reduce_op",
        "dist/process_group.rs",
        "ReduceOp",
        &[
            ("DDP_SUM", "Sum"),
            ("DDP_AVG", "Avg"),
            ("DDP_PRODUCT", "Product"),
            ("DDP_MIN", "Min"),
            ("DDP_MAX", "Max"),
            ("DDP_BAND", "BitAnd"),
            ("DDP_BOR", "BitOr"),
            ("DDP_BXOR", "BitXor"),
        ],
    ),
    (
        "ddp_comm_hook",
        "dist/ddp/options.rs",
        "CommHook",
        &[("DDP_NO_HOOK", "None"), ("DDP_FP16_COMPRESS", "Fp16Compress"), ("DDP_BF16_COMPRESS", "Bf16Compress")],
    ),
    (
        "ddp_backend_flag",
        "backends.rs",
        "Flag",
        &[
            ("DDP_CUDNN_ALLOW_TF32", "CudnnAllowTf32"),
            ("DDP_CUDNN_BENCHMARK", "CudnnBenchmark"),
            ("DDP_CUDNN_DETERMINISTIC", "CudnnDeterministic"),
        ],
    ),
    (
        "ddp_matmul_precision",
        "backends.rs",
        "MatmulPrecision",
        &[("DDP_PRECISION_HIGHEST", "Highest"), ("DDP_PRECISION_HIGH", "High"), ("DDP_PRECISION_MEDIUM", "Medium")],
    ),
    (
        "ddp_sync_debug_mode",
        "cuda/sync.rs",
        "SyncDebugMode",
        &[("DDP_SYNC_DEBUG_OFF", "Off"), ("DDP_SYNC_DEBUG_WARN", "Warn"), ("DDP_SYNC_DEBUG_ERROR", "Error")],
    ),
];

/// Numbers that Rust has no name for, because they are what is left in a `match`.
const UNNAMED: [&str; 2] = ["DDP_GROUP_OK", "DDP_COMPUTED"];

/// A struct that only debuggers read.
const FOR_DEBUGGERS: &str = "ddp_debug_layout";

/// A header's enumerations, and everything else in it.
struct Header {
    declared: Declared,
    enums: BTreeMap<String, Vec<(String, i64)>>,
}

impl Header {
    fn parse(text: &str) -> Self {
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
fn tokens(code: &str) -> Vec<String> {
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
struct Tokens(Vec<String>);

impl Tokens {
    fn peek(&self) -> &str {
        self.0.last().expect("the header goes on")
    }

    fn next(&mut self) -> String {
        self.0.pop().expect("the header goes on")
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

fn function_type(parameters: &[(String, String)], result: &str) -> String {
    let parameters: Vec<String> = parameters.iter().map(|(name, of)| format!("{name}: {of}")).collect();
    format!("fn({}) -> {result}", parameters.join(", "))
}

impl Declared {
    /// What Rust declares in this source text.
    fn add(&mut self, text: &str) {
        for item in syn::parse_file(text).unwrap().items {
            match item {
                Item::ForeignMod(foreign) => foreign.items.into_iter().for_each(|item| self.add_foreign(item)),
                Item::Struct(item) => {
                    let is_c = item.attrs.iter().any(|attribute| {
                        attribute.path().is_ident("repr")
                            && attribute.parse_args::<syn::Ident>().is_ok_and(|repr| repr == "C")
                    });
                    assert!(is_c, "{} is not #[repr(C)]", item.ident);
                    let fields = item.fields.iter().map(|field| (field.ident.as_ref().unwrap().to_string(), &field.ty));
                    let fields: Fields = fields.map(|(name, of)| (name, rust_type(of))).collect();
                    let is_opaque = matches!(fields.as_slice(), [(name, of)] if name == "_private" && of == "[u8;0]");
                    self.structs.insert(item.ident.to_string(), if is_opaque { Vec::new() } else { fields });
                }
                Item::Const(item) if item.ident.to_string().starts_with("DDP_") => {
                    assert_eq!(rust_type(&item.ty), "i32", "{}", item.ident);
                    self.constants.insert(item.ident.to_string(), number(&item.expr));
                }
                _ => {}
            }
        }
    }

    fn add_foreign(&mut self, item: ForeignItem) {
        match item {
            ForeignItem::Fn(item) => {
                let parameters = item.sig.inputs.iter().map(|input| {
                    let FnArg::Typed(input) = input else { panic!("{} has a receiver", item.sig.ident) };
                    let Pat::Ident(name) = &*input.pat else { panic!("{} has a pattern", item.sig.ident) };
                    (name.ident.to_string(), rust_type(&input.ty))
                });
                let signature = (parameters.collect(), result_type(&item.sig.output));
                self.functions.insert(item.sig.ident.to_string(), signature);
            }
            ForeignItem::Static(item) => self.statics.push(item.ident.to_string()),
            _ => panic!("an item of another kind"),
        }
    }
}

fn result_type(result: &ReturnType) -> String {
    match result {
        ReturnType::Default => "()".into(),
        ReturnType::Type(_, of) => rust_type(of),
    }
}

fn rust_type(of: &Type) -> String {
    match of {
        Type::Path(path) => match path.path.segments.last().unwrap().ident.to_string().as_str() {
            "c_int" => "i32".into(),
            name => name.to_owned(),
        },
        Type::Ptr(pointer) => {
            let is_mut = matches!(pointer.mutability, PointerMutability::Mut(_));
            format!("*{} {}", if is_mut { "mut" } else { "const" }, rust_type(&pointer.elem))
        }
        Type::Array(array) => format!("[{};{}]", rust_type(&array.elem), number(&array.len)),
        Type::FnPtr(function) => {
            let is_c =
                function.abi.as_ref().is_some_and(|abi| abi.name.as_ref().is_some_and(|name| name.value() == "C"));
            assert!(is_c && function.unsafety.is_some(), "a callback is an unsafe extern \"C\" fn");
            let parameter = |input: &syn::NamedArg| {
                let (name, _) = input.name.as_ref().expect("parameters of callbacks have names");
                (name.to_string(), rust_type(&input.ty))
            };
            let parameters: Fields = function.inputs.iter().map(parameter).collect();
            function_type(&parameters, &result_type(&function.output))
        }
        _ => panic!("a type that this test does not know"),
    }
}

fn number(value: &syn::Expr) -> i64 {
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(number), .. }) => number.base10_parse().unwrap(),
        _ => panic!("not a number"),
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_side() -> Declared {
    let mut declared = Declared::default();
    for file in fs::read_dir(root().join("src/sys")).unwrap() {
        let path = file.unwrap().path();
        declared.add(&fs::read_to_string(&path).unwrap());
    }
    declared
}

fn header() -> Header {
    Header::parse(&fs::read_to_string(root().join("csrc/ddp.h")).unwrap())
}

/// Where the two differ, item by item.
fn differences(c: &Header, rust: &Declared) -> Vec<String> {
    fn compare<T: PartialEq + std::fmt::Debug>(
        what: &str,
        c: &BTreeMap<String, T>,
        rust: &BTreeMap<String, T>,
        found: &mut Vec<String>,
    ) {
        let names: std::collections::BTreeSet<&String> = c.keys().chain(rust.keys()).collect();
        for name in names {
            match (c.get(name), rust.get(name)) {
                (Some(c), Some(rust)) if c == rust => {}
                (c, rust) => found.push(format!("{what} {name}\n  C:    {c:?}\n  Rust: {rust:?}")),
            }
        }
    }
    let mut found = Vec::new();
    let mut structs = c.declared.structs.clone();
    structs.remove(FOR_DEBUGGERS);
    let mut constants = c.declared.constants.clone();
    let elsewhere = MIRRORED.iter().flat_map(|(.., variants)| variants.iter().map(|(constant, _)| *constant));
    for name in elsewhere.chain(UNNAMED) {
        constants.remove(name);
    }
    compare("function", &c.declared.functions, &rust.functions, &mut found);
    compare("struct", &structs, &rust.structs, &mut found);
    compare("constant", &constants, &rust.constants, &mut found);
    if c.declared.statics != rust.statics {
        found.push(format!("variables\n  C:    {:?}\n  Rust: {:?}", c.declared.statics, rust.statics));
    }
    found
}

#[test]
fn sys_declares_what_the_header_declares() {
    let (header, rust) = (header(), rust_side());
    assert!(header.declared.functions.len() > 90 && header.declared.structs.len() > 20, "{:?}", header.declared);
    let found = differences(&header, &rust);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn sys_numbers_of_enums_are_those_of_the_header() {
    let header = header();
    for (name, file, rust_name, variants) in MIRRORED {
        let text = fs::read_to_string(root().join("src").join(file)).unwrap();
        let found = syn::parse_file(&text).unwrap().items.into_iter().find_map(|item| match item {
            Item::Enum(item) if item.ident == rust_name => Some(item),
            _ => None,
        });
        let found = found.unwrap_or_else(|| panic!("{file} has no {rust_name}"));
        let mut next = 0;
        let rust: Vec<(String, i64)> = found
            .variants
            .iter()
            .map(|variant| {
                let value = variant.discriminant.as_ref().map_or(next, |(_, value)| number(value));
                next = value + 1;
                (variant.ident.to_string(), value)
            })
            .collect();
        let c: Vec<(String, i64)> = header.enums[name]
            .iter()
            .map(|(constant, value)| {
                let variant = variants.iter().find(|(known, _)| known == constant);
                (variant.unwrap_or_else(|| panic!("{constant} is new")).1.to_owned(), *value)
            })
            .collect();
        assert_eq!(rust, c, "{rust_name} and {name}");
    }
}

/// The comparison finds a difference of each kind.
#[test]
fn sys_differences_are_found() {
    let c = "
        extern \"C\" {
        enum ddp_status : int32_t { DDP_OK = 0, DDP_ERROR = 1 };
        struct ddp_work;
        struct ddp_op { ddp_tensor* tensor; double lr, eps; void (*drop)(void* context); };
        int32_t ddp_wait(const ddp_work* work, ddp_work** out, const char* const* names, ddp_status status) noexcept;
        }
    ";
    let rust = r#"
        const DDP_OK: i32 = 0;
        const DDP_ERROR: i32 = 1;
        #[repr(C)] struct ddp_work { _private: [u8; 0] }
        #[repr(C)] struct ddp_op {
            tensor: *mut C_tensor,
            lr: f64,
            eps: f64,
            drop: unsafe extern "C" fn(context: *mut c_void),
        }
        unsafe extern "C" {
            fn ddp_wait(work: *const ddp_work, out: *mut *mut ddp_work, names: *const *const c_char, status: i32) -> i32;
        }
    "#;
    let found = |rust: &str| {
        let mut declared = Declared::default();
        declared.add(rust);
        differences(&Header::parse(c), &declared).len()
    };
    assert_eq!(found(rust), 0);
    for (from, to) in [
        ("DDP_ERROR: i32 = 1", "DDP_ERROR: i32 = 2"),
        ("const DDP_OK: i32 = 0;", ""),
        ("const DDP_OK", "const DDP_MORE: i32 = 5; const DDP_OK"),
        ("lr: f64", "lr: f32"),
        ("lr: f64,", ""),
        ("(context: *mut c_void)", "(context: *mut c_void) -> i32"),
        ("*const ddp_work", "*mut ddp_work"),
        ("*const *const c_char", "*const *mut c_char"),
        ("status: i32", "status: i64"),
        (", status: i32", ""),
        (" -> i32;", ";"),
        ("fn ddp_wait", "fn ddp_gone(); fn ddp_wait"),
        ("fn ddp_wait", "static ddp_more: u8; fn ddp_wait"),
    ] {
        let changed = rust.replace(from, to);
        assert_ne!(changed, rust, "{from}");
        assert_eq!(found(&changed), 1, "{from} -> {to}");
    }
    let empty = "unsafe extern \"C\" {}";
    assert_eq!(found(empty), 5, "one for each item of C");
}
