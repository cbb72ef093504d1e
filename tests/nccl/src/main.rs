//! Creates an NCCL group, for the test that NCCL is compiled and linked.

use ddp_runtime::{Backend, Context};

fn main() -> std::process::ExitCode {
    println!("NCCL is built: {}", Backend::Nccl.is_built());
    ddp_runtime::main(|| Context::builder().backend(Backend::Nccl).init().map(|_| println!("there is a GPU")))
}
