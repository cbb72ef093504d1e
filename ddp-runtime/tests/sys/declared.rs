//! What one side declares; and what Rust does, read by `syn`.

use std::collections::BTreeMap;

use syn::{FnArg, ForeignItem, Item, Pat, PointerMutability, ReturnType, Type};

/// Types by name, each as Rust writes it: `*const *mut C_tensor`.
pub(crate) type Fields = Vec<(String, String)>;

/// What one side declares.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Declared {
    /// Parameters, and the type of the result.
    pub(crate) functions: BTreeMap<String, (Fields, String)>,
    /// Fields in their order; none for a struct that only pointers lead to.
    pub(crate) structs: BTreeMap<String, Fields>,
    pub(crate) constants: BTreeMap<String, i64>,
    /// Variables.
    pub(crate) statics: Vec<String>,
}

impl Declared {
    /// What Rust declares in this source text.
    pub(crate) fn add(&mut self, text: &str) {
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

pub(crate) fn result_type(result: &ReturnType) -> String {
    match result {
        ReturnType::Default => "()".into(),
        ReturnType::Type(_, of) => rust_type(of),
    }
}

pub(crate) fn rust_type(of: &Type) -> String {
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

pub(crate) fn number(value: &syn::Expr) -> i64 {
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Int(number), .. }) => number.base10_parse().unwrap(),
        _ => panic!("not a number"),
    }
}

pub(crate) fn function_type(parameters: &[(String, String)], result: &str) -> String {
    let parameters: Vec<String> = parameters.iter().map(|(name, of)| format!("{name}: {of}")).collect();
    format!("fn({}) -> {result}", parameters.join(", "))
}
