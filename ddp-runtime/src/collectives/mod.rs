//! What the ranks of a group do together, each operation in two forms: `op` waits, `op_async` gives a [`Work`].
//!
//! Every rank must call the same operations in the same order. Unless the group was told not to, the ranks first compare
//! what they call, so that a mistake is [`Error::CallsDiffer`] on every rank.

mod call;
pub(crate) mod point_to_point;

use std::time::Duration;

use tch::Tensor;

use crate::error::check;
use crate::store::{milliseconds, to_i32};
use crate::{Error, ProcessGroup, ReduceOp, Result, Work, sys};

use call::{Call, same_shape};

impl ProcessGroup {
    /// Joins the ranks' tensors by `op`; every rank's `tensor` becomes the result.
    ///
    /// `tensor`: any shape and numeric dtype, the same on all ranks, contiguous, on the CPU or (with NCCL) on this rank's
    /// GPU. Floating point sums may differ in the last bits between backends and numbers of ranks, never between ranks.
    ///
    /// # Errors
    /// [`Error::CallsDiffer`]; [`Error::Torch`] when a rank is gone or the backend does not know the op for this dtype;
    /// [`Error::Timeout`] when ranks do not come.
    pub fn all_reduce(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<()> {
        self.all_reduce_async(tensor, op)?.wait()
    }

    /// Starts [`all_reduce`](ProcessGroup::all_reduce).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_reduce_async(&self, tensor: &mut Tensor, op: ReduceOp) -> Result<Work> {
        self.compare(|| Call::new("all_reduce").op(op).tensor(tensor))?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: `group` and `tensor` are live for the call, and the work keeps its own reference to the tensor.
        Work::start("all_reduce", (), |work, error| unsafe {
            sys::ddp_all_reduce(group, tensor, op as i32, work, error)
        })
    }

    /// As [`all_reduce`](ProcessGroup::all_reduce), with the result on rank `dst` only; what the others' tensors hold
    /// afterwards is unspecified.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; else as there.
    pub fn reduce(&self, tensor: &mut Tensor, dst: usize, op: ReduceOp) -> Result<()> {
        self.reduce_async(tensor, dst, op)?.wait()
    }

    /// Starts [`reduce`](ProcessGroup::reduce).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn reduce_async(&self, tensor: &mut Tensor, dst: usize, op: ReduceOp) -> Result<Work> {
        self.check_rank(dst)?;
        self.compare(|| Call::new("reduce").op(op).root(dst).tensor(tensor))?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: as in `all_reduce_async`.
        Work::start("reduce", (), |work, error| unsafe {
            sys::ddp_reduce(group, tensor, to_i32(dst), op as i32, work, error)
        })
    }

    /// Makes every rank's `tensor` equal to that of rank `src`. Shape and dtype must be the same on all ranks.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; else as [`ProcessGroup::all_reduce`].
    pub fn broadcast(&self, tensor: &mut Tensor, src: usize) -> Result<()> {
        self.broadcast_async(tensor, src)?.wait()
    }

    /// Starts [`broadcast`](ProcessGroup::broadcast).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn broadcast_async(&self, tensor: &mut Tensor, src: usize) -> Result<Work> {
        self.check_rank(src)?;
        self.compare(|| Call::new("broadcast").root(src).tensor(tensor))?;
        let (group, tensor) = (self.as_ptr(), tensor.as_mut_ptr());
        // SAFETY: as in `all_reduce_async`.
        Work::start("broadcast", (), |work, error| unsafe {
            sys::ddp_broadcast(group, tensor, to_i32(src), work, error)
        })
    }

    /// Every rank's tensor, in the order of ranks. Shape and dtype must be the same on all ranks.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn all_gather(&self, tensor: &Tensor) -> Result<Vec<Tensor>> {
        self.all_gather_async(tensor)?.wait()
    }

    /// Starts [`all_gather`](ProcessGroup::all_gather).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_gather_async(&self, tensor: &Tensor) -> Result<Work<Vec<Tensor>>> {
        let input = contiguous(tensor)?;
        self.compare(|| Call::new("all_gather").tensor(&input))?;
        let outputs: Vec<Tensor> = (0..self.world_size()).map(|_| input.empty_like()).collect();
        let pointers = pointers(&outputs);
        let (group, input) = (self.as_ptr(), input.as_ptr().cast_mut());
        // SAFETY: `pointers` holds world_size live tensors like `input`; the work keeps references of its own.
        Work::start("all_gather", outputs, |work, error| unsafe {
            sys::ddp_all_gather(group, pointers.as_ptr(), input, work, error)
        })
    }

    /// Every rank's tensor in one: `output` has the shape of `tensor` with its first dimension world_size times as long, or
    /// with world_size as a new first dimension; contiguous, and of the same dtype (`all_gather_into_tensor`).
    ///
    /// # Errors
    /// [`Error::Invalid`] when `output` has another size or is not contiguous; else as [`ProcessGroup::all_reduce`].
    pub fn all_gather_into(&self, output: &mut Tensor, tensor: &Tensor) -> Result<()> {
        self.all_gather_into_async(output, tensor)?.wait()
    }

    /// Starts [`all_gather_into`](ProcessGroup::all_gather_into).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_gather_into_async(&self, output: &mut Tensor, tensor: &Tensor) -> Result<Work> {
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
        // SAFETY: as in `all_reduce_async`.
        Work::start("all_gather_into", (), |work, error| unsafe {
            sys::ddp_all_gather_into(group, output, input, work, error)
        })
    }

    /// Every rank's tensor, in the order of ranks, on rank `dst`; `None` elsewhere.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; else as [`ProcessGroup::all_reduce`].
    pub fn gather(&self, tensor: &Tensor, dst: usize) -> Result<Option<Vec<Tensor>>> {
        self.gather_async(tensor, dst)?.wait()
    }

    /// Starts [`gather`](ProcessGroup::gather).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn gather_async(&self, tensor: &Tensor, dst: usize) -> Result<Work<Option<Vec<Tensor>>>> {
        self.check_rank(dst)?;
        let input = contiguous(tensor)?;
        self.compare(|| Call::new("gather").root(dst).tensor(&input))?;
        let outputs: Option<Vec<Tensor>> =
            (self.rank() == dst).then(|| (0..self.world_size()).map(|_| input.empty_like()).collect());
        let pointers = outputs.as_deref().map(pointers);
        let list = pointers.as_ref().map_or(std::ptr::null(), |pointers| pointers.as_ptr());
        let (group, input) = (self.as_ptr(), input.as_ptr().cast_mut());
        // SAFETY: `list` is null or holds world_size live tensors like `input`; the work keeps references of its own.
        Work::start("gather", outputs, |work, error| unsafe {
            sys::ddp_gather(group, list, input, to_i32(dst), work, error)
        })
    }

    /// Gives each rank its tensor of rank `src`'s list, in the order of ranks: `output` becomes it. `inputs` is looked at
    /// on rank `src` only, where it holds one tensor per rank, of `output`'s shape and dtype.
    ///
    /// # Errors
    /// [`Error::RankOutOfRange`]; [`Error::Invalid`] on rank `src` (and [`Error::CallsDiffer`] on the others) for a list
    /// that does not fit; else as [`ProcessGroup::all_reduce`].
    pub fn scatter(&self, output: &mut Tensor, inputs: &[Tensor], src: usize) -> Result<()> {
        self.scatter_async(output, inputs, src)?.wait()
    }

    /// Starts [`scatter`](ProcessGroup::scatter).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn scatter_async(&self, output: &mut Tensor, inputs: &[Tensor], src: usize) -> Result<Work> {
        self.check_rank(src)?;
        let is_src = self.rank() == src;
        let fits = if is_src { self.check_list("scatter", inputs, output) } else { Ok(()) };
        self.compare_or(fits, || Call::new("scatter").root(src).tensor(output))?;
        let inputs = if is_src { contiguous_all(inputs)? } else { Vec::new() };
        let pointers = pointers(&inputs);
        let list = if is_src { pointers.as_ptr() } else { std::ptr::null() };
        let (group, output) = (self.as_ptr(), output.as_mut_ptr());
        // SAFETY: `list` is null or holds world_size live tensors; the work keeps references of its own.
        Work::start("scatter", (), |work, error| unsafe {
            sys::ddp_scatter(group, output, list, to_i32(src), work, error)
        })
    }

    /// Joins the ranks' lists by `op`, item by item, and gives rank N the N-th result in `output`. `inputs` holds one
    /// tensor per rank, all of `output`'s shape and dtype.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a list that does not fit; else as [`ProcessGroup::all_reduce`].
    pub fn reduce_scatter(&self, output: &mut Tensor, inputs: &[Tensor], op: ReduceOp) -> Result<()> {
        self.reduce_scatter_async(output, inputs, op)?.wait()
    }

    /// Starts [`reduce_scatter`](ProcessGroup::reduce_scatter).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn reduce_scatter_async(&self, output: &mut Tensor, inputs: &[Tensor], op: ReduceOp) -> Result<Work> {
        let fits = self.check_list("reduce_scatter", inputs, output);
        self.compare_or(fits, || Call::new("reduce_scatter").op(op).tensor(output))?;
        let inputs = contiguous_all(inputs)?;
        let pointers = pointers(&inputs);
        let (group, output) = (self.as_ptr(), output.as_mut_ptr());
        // SAFETY: `pointers` holds world_size live tensors; the work keeps references of its own.
        Work::start("reduce_scatter", (), |work, error| unsafe {
            sys::ddp_reduce_scatter(group, output, pointers.as_ptr(), op as i32, work, error)
        })
    }

    /// Sends the N-th tensor of `inputs` to rank N, and receives rank N's tensor for this rank as the N-th of the result.
    /// All tensors have one shape and dtype, the same on all ranks.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a list that does not fit; else as [`ProcessGroup::all_reduce`].
    pub fn all_to_all(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.all_to_all_async(inputs)?.wait()
    }

    /// Starts [`all_to_all`](ProcessGroup::all_to_all).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn all_to_all_async(&self, inputs: &[Tensor]) -> Result<Work<Vec<Tensor>>> {
        let nothing = Tensor::new();
        let first = inputs.first().unwrap_or(&nothing);
        let fits = self.check_list("all_to_all", inputs, first);
        self.compare_or(fits, || Call::new("all_to_all").tensor(first))?;
        let inputs = contiguous_all(inputs)?;
        let outputs: Vec<Tensor> = inputs.iter().map(Tensor::empty_like).collect();
        let (sent, received) = (pointers(&inputs), pointers(&outputs));
        let group = self.as_ptr();
        // SAFETY: both lists hold world_size live tensors; the work keeps references of its own.
        Work::start("all_to_all", outputs, |work, error| unsafe {
            sys::ddp_all_to_all(group, received.as_ptr(), sent.as_ptr(), work, error)
        })
    }

    /// Waits until every rank of the group has come here.
    ///
    /// # Errors
    /// As [`ProcessGroup::all_reduce`].
    pub fn barrier(&self) -> Result<()> {
        self.barrier_async()?.wait()
    }

    /// Starts [`barrier`](ProcessGroup::barrier).
    ///
    /// # Errors
    /// As there, here or from [`Work::wait`].
    pub fn barrier_async(&self) -> Result<Work> {
        self.compare(|| Call::new("barrier"))?;
        let group = self.as_ptr();
        // SAFETY: `group` is live.
        Work::start("barrier", (), |work, error| unsafe { sys::ddp_barrier(group, work, error) })
    }

    /// A barrier that ends on rank 0, after `timeout`, with an error that names every rank that did not come; the others
    /// end with an error too. It goes over Gloo.
    ///
    /// # Errors
    /// [`Error::Timeout`] or [`Error::Torch`], with PyTorch's words.
    pub fn monitored_barrier(&self, timeout: Duration) -> Result<()> {
        let group = self.as_ptr();
        // SAFETY: `group` is live.
        check("monitored_barrier", |error| unsafe {
            sys::ddp_monitored_barrier(group, milliseconds(timeout).max(1), error)
        })
    }

    pub(crate) fn check_rank(&self, rank: usize) -> Result<()> {
        let world_size = self.world_size();
        if rank < world_size { Ok(()) } else { Err(Error::RankOutOfRange { rank, world_size }) }
    }

    /// A list with one tensor per rank, all like `model`.
    fn check_list(&self, name: &str, list: &[Tensor], model: &Tensor) -> Result<()> {
        let world_size = self.world_size();
        if list.len() != world_size {
            return Err(Error::Invalid(format!("{name}: {} tensors were given for {world_size} ranks", list.len())));
        }
        match list.iter().position(|tensor| !same_shape(tensor, model)) {
            Some(i) => {
                let (found, wanted) = (call::shape(&list[i]), call::shape(model));
                Err(Error::Invalid(format!("{name}: tensor {i} is {found}, and {wanted} is needed")))
            }
            None => Ok(()),
        }
    }
}

fn contiguous(tensor: &Tensor) -> Result<Tensor> {
    tensor.f_contiguous().map_err(Error::tch("making a tensor contiguous"))
}

fn contiguous_all(tensors: &[Tensor]) -> Result<Vec<Tensor>> {
    tensors.iter().map(contiguous).collect()
}

fn pointers(tensors: &[Tensor]) -> Vec<*mut sys::C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr().cast_mut()).collect()
}
