fn main() {
    ddp_build::link(); // lets the program find libtorch without LD_LIBRARY_PATH
}
