//! Lets the workers find libtorch without LD_LIBRARY_PATH.

fn main() {
    ddp_build::link();
}
