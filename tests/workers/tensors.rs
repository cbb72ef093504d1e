//! Tensors of every kind, for a debugger to examine: `tests/debug/formatters.py`.

#![allow(unused_variables, clippy::unwrap_used, reason = "they are there to be looked at")]

use std::mem::{ManuallyDrop, MaybeUninit};

use tch::{Device, Kind, Tensor};

unsafe extern "C" {
    /// `ddp_debug_layout` in ddp-runtime/csrc/ddp.h.
    static ddp_debug_tensor_layout: [u32; 21];
}

const DEVICE_TYPE: usize = 12;
const DEVICE_INDEX: usize = 13;

/// A fake tensor on a GPU: its header claims a GPU, and its data address does not belong to this process.
fn on_gpu() -> ManuallyDrop<Tensor> {
    let tensor = Tensor::arange(6, (Kind::Float, Device::Cpu)).view([2, 3]);
    // SAFETY: it is written before `main`, and never after.
    let layout = unsafe { &ddp_debug_tensor_layout };
    // SAFETY: a handle is a pointer to the C++ tensor, which is a pointer to its implementation.
    let implementation = unsafe { *tensor.as_ptr().cast::<*mut u8>() };
    for (field, value) in [(DEVICE_TYPE, 1), (DEVICE_INDEX, 3)] {
        // SAFETY: the offset is this libtorch's own, of a byte; the tensor is neither used nor dropped after this.
        unsafe { implementation.wrapping_add(layout[field] as usize).write(value) };
    }
    ManuallyDrop::new(tensor)
}

fn main() {
    let context = ddp_runtime::Context::init().unwrap();
    let cpu = Device::Cpu;
    let counted = || Tensor::arange(6, (Kind::Float, cpu)).view([2, 3]);

    let float = counted();
    let double = counted().to_kind(Kind::Double);
    let half = counted().to_kind(Kind::Half);
    let bfloat = counted().to_kind(Kind::BFloat16);
    let int8 = counted().to_kind(Kind::Int8) - 3;
    let boolean = counted().gt(2.5);
    let scalar = Tensor::from(2.5);
    let empty = Tensor::zeros([0, 3], (Kind::Float, cpu));
    let transposed = counted().tr();
    let part = counted().slice(1, 1, 3, 1);
    let expanded = Tensor::from_slice(&[1i64, 2]).view([2, 1]).expand([2, 3], false);
    let many_dims = counted().view([1i64, 1, 2, 1, 3, 1, 1].as_slice());
    let complex = Tensor::complex(&counted(), &(counted() + 1));
    let conjugate = complex.conj();
    let negative = conjugate.imag();
    let large = Tensor::arange(100_000, (Kind::Int64, cpu));
    let sparse = counted().to_sparse_sparse_dim(2);
    let weight = counted().set_requires_grad(true);
    (&weight * &weight).sum(Kind::Float).backward();
    let grown = &weight + 1;
    let undefined = Tensor::new();
    let gpu = on_gpu();
    let options = (Some(counted()), None::<Tensor>);

    let moved = counted();
    let now_elsewhere = [moved];
    // A variable before it has a value, and after its value is dropped.
    let mut garbage = MaybeUninit::<[usize; 5]>::uninit();
    garbage.write([0, 8, 0xdead_beef_dead_bee8, &raw const garbage as usize, 0x10_0001]);
    // SAFETY: only a debugger reads them, and they are never dropped.
    let [null, low, high, stack, odd] =
        unsafe { std::mem::transmute::<MaybeUninit<[usize; 5]>, [ManuallyDrop<Tensor>; 5]>(garbage) };
    let freed = {
        let gone = ManuallyDrop::new(counted());
        // SAFETY: only a debugger reads the handle that stays; the tensor behind it is freed.
        drop(unsafe { Tensor::from_ptr(gone.as_ptr().cast_mut()) });
        gone
    };

    println!("rank {} looked at {}", context.rank(), now_elsewhere.len()); // BREAK
}
