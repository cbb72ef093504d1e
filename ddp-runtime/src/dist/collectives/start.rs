//! How each operation starts.

use tch::Tensor;

use super::call::{self, Call, same_shape};
use crate::sys::convert::to_i32;
use crate::{Error, ProcessGroup, ReduceOp, Result, Work, sys};

/// Who waits for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// The caller, immediately: NCCL runs the operation on the current stream (PyTorch's `async_op=False`).
    Blocking,
    /// The caller, later: NCCL runs it on its own stream.
    Async,
}

impl Mode {
    fn is_async(self) -> bool {
        self == Self::Async
    }
}

impl ProcessGroup {
    pub(super) fn start_all_reduce(&self, tensor: &mut Tensor, op: ReduceOp, mode: Mode) -> Result<Work> {
        self.compare(|| Call::new("all_reduce").op(op).tensor(tensor))?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: `group` and `tensor` are live for the call, and the work keeps its own reference to the tensor.
        Work::start("all_reduce", (), |work, error| unsafe {
            sys::ddp_all_reduce(group, tensor, op as i32, mode.is_async(), work, error)
        })
    }

    pub(super) fn start_reduce(&self, tensor: &mut Tensor, dst: usize, op: ReduceOp, mode: Mode) -> Result<Work> {
        self.check_rank(dst)?;
        self.compare(|| Call::new("reduce").op(op).root(dst).tensor(tensor))?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: as in `start_all_reduce`.
        Work::start("reduce", (), |work, error| unsafe {
            sys::ddp_reduce(group, tensor, to_i32(dst), op as i32, mode.is_async(), work, error)
        })
    }

    pub(super) fn start_broadcast(&self, tensor: &mut Tensor, src: usize, mode: Mode) -> Result<Work> {
        self.check_rank(src)?;
        self.compare(|| Call::new("broadcast").root(src).tensor(tensor))?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: as in `start_all_reduce`.
        Work::start("broadcast", (), |work, error| unsafe {
            sys::ddp_broadcast(group, tensor, to_i32(src), mode.is_async(), work, error)
        })
    }

    pub(super) fn start_all_gather(&self, tensor: &Tensor, mode: Mode) -> Result<Work<Vec<Tensor>>> {
        let input = contiguous(tensor)?;
        self.compare(|| Call::new("all_gather").tensor(&input))?;
        let outputs: Vec<Tensor> = (0..self.world_size()).map(|_| input.empty_like()).collect();
        let pointers = pointers(&outputs);
        let (group, input) = (self.as_ptr(), input.as_ptr().cast_mut());
        // SAFETY: `pointers` holds world_size live tensors like `input`; the work keeps its own references.
        Work::start("all_gather", outputs, |work, error| unsafe {
            sys::ddp_all_gather(group, pointers.as_ptr(), input, mode.is_async(), work, error)
        })
    }

    pub(super) fn start_all_gather_into(&self, output: &mut Tensor, tensor: &Tensor, mode: Mode) -> Result<Work> {
        let input = contiguous(tensor)?;
        let size = input.numel() * self.world_size();
        let fits = output.numel() == size && output.kind() == input.kind() && output.is_contiguous();
        let fits = fits.then_some(()).ok_or_else(|| {
            let (out, shape, ranks) = (output.size(), input.size(), self.world_size());
            Error::Invalid(format!("all_gather_into: an output of shape {out:?} can't hold {ranks} times {shape:?}"))
        });
        self.compare_or(fits, || Call::new("all_gather_into").tensor(&input))?;
        // As rows of numbers, which c10d takes for both forms.
        let flat = |tensor: &Tensor| tensor.f_view(-1).map_err(Error::tch("all_gather_into"));
        let (mut output, input) = (flat(output)?, flat(&input)?);
        let (group, output, input) = (self.as_ptr(), output.as_mut_ptr(), input.as_ptr().cast_mut());
        // SAFETY: as in `start_all_reduce`.
        Work::start("all_gather_into", (), |work, error| unsafe {
            sys::ddp_all_gather_into(group, output, input, mode.is_async(), work, error)
        })
    }

    pub(super) fn start_gather(&self, tensor: &Tensor, dst: usize, mode: Mode) -> Result<Work<Option<Vec<Tensor>>>> {
        self.check_rank(dst)?;
        let input = contiguous(tensor)?;
        self.compare(|| Call::new("gather").root(dst).tensor(&input))?;
        let outputs: Option<Vec<Tensor>> =
            (self.rank() == dst).then(|| (0..self.world_size()).map(|_| input.empty_like()).collect());
        let pointers = outputs.as_deref().map(pointers);
        let list = pointers.as_ref().map_or(std::ptr::null(), |pointers| pointers.as_ptr());
        let (group, input) = (self.as_ptr(), input.as_ptr().cast_mut());
        // SAFETY: `list` is null or holds world_size live tensors like `input`; the work keeps its own references.
        Work::start("gather", outputs, |work, error| unsafe {
            sys::ddp_gather(group, list, input, to_i32(dst), mode.is_async(), work, error)
        })
    }

    pub(super) fn start_scatter(&self, output: &mut Tensor, inputs: &[Tensor], src: usize, mode: Mode) -> Result<Work> {
        self.check_rank(src)?;
        let is_src = self.rank() == src;
        let fits = if is_src { self.check_list("scatter", inputs, output) } else { Ok(()) };
        self.compare_or(fits, || Call::new("scatter").root(src).tensor(output))?;
        let inputs = if is_src { contiguous_all(inputs)? } else { Vec::new() };
        let pointers = pointers(&inputs);
        let list = if is_src { pointers.as_ptr() } else { std::ptr::null() };
        let (group, output) = (self.as_ptr(), output.as_mut_ptr());
        // SAFETY: `list` is null or holds world_size live tensors; the work keeps its own references.
        Work::start("scatter", (), |work, error| unsafe {
            sys::ddp_scatter(group, output, list, to_i32(src), mode.is_async(), work, error)
        })
    }

    pub(super) fn start_reduce_scatter(
        &self,
        output: &mut Tensor,
        inputs: &[Tensor],
        op: ReduceOp,
        mode: Mode,
    ) -> Result<Work> {
        let fits = self.check_list("reduce_scatter", inputs, output);
        self.compare_or(fits, || Call::new("reduce_scatter").op(op).tensor(output))?;
        let inputs = contiguous_all(inputs)?;
        let pointers = pointers(&inputs);
        let (group, output) = (self.as_ptr(), output.as_mut_ptr());
        // SAFETY: `pointers` holds world_size live tensors; the work keeps its own references.
        Work::start("reduce_scatter", (), |work, error| unsafe {
            sys::ddp_reduce_scatter(group, output, pointers.as_ptr(), op as i32, mode.is_async(), work, error)
        })
    }

    pub(super) fn start_all_to_all(&self, inputs: &[Tensor], mode: Mode) -> Result<Work<Vec<Tensor>>> {
        let nothing = Tensor::new();
        let first = inputs.first().unwrap_or(&nothing);
        let fits = self.check_list("all_to_all", inputs, first);
        self.compare_or(fits, || Call::new("all_to_all").tensor(first))?;
        let inputs = contiguous_all(inputs)?;
        let outputs: Vec<Tensor> = inputs.iter().map(Tensor::empty_like).collect();
        let (sent, received) = (pointers(&inputs), pointers(&outputs));
        let group = self.as_ptr();
        // SAFETY: both lists hold world_size live tensors; the work keeps its own references.
        Work::start("all_to_all", outputs, |work, error| unsafe {
            sys::ddp_all_to_all(group, received.as_ptr(), sent.as_ptr(), mode.is_async(), work, error)
        })
    }

    pub(super) fn start_barrier(&self, mode: Mode) -> Result<Work> {
        self.compare(|| Call::new("barrier"))?;
        let group = self.as_ptr();
        // SAFETY: `group` is live.
        Work::start("barrier", (), |work, error| unsafe { sys::ddp_barrier(group, mode.is_async(), work, error) })
    }

    /// A list with one tensor per rank, all like `model`.
    fn check_list(&self, name: &str, list: &[Tensor], model: &Tensor) -> Result<()> {
        let world_size = self.world_size();
        if list.len() != world_size {
            return Err(Error::Invalid(format!("{name}: got {} tensors for {world_size} ranks", list.len())));
        }
        match list.iter().position(|tensor| !same_shape(tensor, model)) {
            Some(i) => {
                let (found, wanted) = (call::shape(&list[i]), call::shape(model));
                Err(Error::Invalid(format!("{name}: tensor {i} is {found}, expected {wanted}")))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn contiguous(tensor: &Tensor) -> Result<Tensor> {
    tensor.f_contiguous().map_err(Error::tch("making a tensor contiguous"))
}

fn contiguous_all(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    tensors.iter().map(contiguous).collect()
}

fn pointers(tensors: &[Tensor]) -> Vec<*mut sys::C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}
