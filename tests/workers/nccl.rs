//! Makes an NCCL group: for the test that it is compiled, linked, and answers.

use ddp_runtime::{Backend, Context};

fn main() -> std::process::ExitCode {
    println!("NCCL is built: {}", Backend::Nccl.is_built());
    ddp_runtime::main(|| Context::builder().backend(Backend::Nccl).init().map(|_| println!("there is a GPU")))
}
