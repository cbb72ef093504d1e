//! `src/sys` declares what `csrc/ddp.h` declares: the same functions, structs and constants, in both directions. The linker
//! compares names only.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

mod declared;
mod header;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use declared::{Declared, number};
use header::{FOR_DEBUGGERS, Header};
use syn::Item;

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
fn sys_enum_numbers_match_the_header() {
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
