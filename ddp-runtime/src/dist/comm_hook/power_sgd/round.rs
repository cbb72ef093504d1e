//! The exchange of one bucket in one step.

use tch::{Device, Kind, TchError, Tensor};

use super::orthogonalize::orthogonalize;
use super::state::{Compression, Memory, PowerSgdOptions, Shared};
use crate::dist::comm_hook::{GradBucket, failed};
use crate::dist::fnv;
use crate::error::check;
use crate::{Error, ProcessGroup, ReduceOp, Result, Work, sys};

pub(super) struct Round {
    bucket: GradBucket,
    /// The gradients before compression, with error feedback.
    input: Option<Tensor>,
    uncompressed: Vec<Tensor>,
    uncompressed_sum: Sum,
    p: Sum,
    q: Tensor,
    matrices: Vec<Matrices>,
}

/// A tensor that is being summed over the ranks.
struct Sum {
    tensor: Tensor,
    work: Option<Work>,
}

/// Gradients of one shape, and what they are approximated by.
struct Matrices {
    /// The gradients that `tensor` is a stack of; none if it is a view of one.
    stacked: Vec<Tensor>,
    /// [number of gradients, rows, columns]
    tensor: Tensor,
    p: Tensor,
    q: Tensor,
}

impl Round {
    /// What runs as soon as the bucket is complete.
    pub(super) fn start(this: &Shared, group: &ProcessGroup, bucket: GradBucket) -> Result<Self> {
        let options = &this.options;
        let mut state = this.state();
        let Memory { layout, error, p, q } = state.buckets.remove(&bucket.index()).unwrap_or_default();
        check_layout(&bucket, layout)?;
        let mut buffer = bucket.buffer().shallow_clone();
        let like = (buffer.kind(), buffer.device());
        if let Some(error) = &error {
            check_length("error", &bucket, error, buffer.size()[0])?;
            let _ = buffer.f_add_(error).map_err(failed)?;
        }
        let input = options.use_error_feedback.then(|| copy(&buffer)).transpose().map_err(failed)?;

        let (compressed, uncompressed) = split(options, &bucket, &mut state.compression).map_err(failed)?;
        let uncompressed_sum = Sum::start(group, cat(&uncompressed, like).map_err(failed)?)?;

        let batches = batches(options, compressed).map_err(failed)?;
        let length = |side| batches.iter().map(|(_, tensor)| size(options, tensor, side).iter().product::<i64>()).sum();
        let kept = p.zip(q).filter(|_| options.warm_start);
        let is_new = kept.is_none();
        let (p, q) = match kept {
            Some((p, q)) => {
                check_length("p", &bucket, &p, length(ROWS))?;
                check_length("q", &bucket, &q, length(COLUMNS))?;
                (p, q)
            }
            None => {
                let empty = |length| Tensor::f_empty([length], like).map_err(failed);
                (empty(length(ROWS))?, empty(length(COLUMNS))?)
            }
        };
        let mut matrices = views(options, batches, &p, &q).map_err(failed)?;
        if is_new {
            fill_randn(&matrices, state.seed(options.random_seed))?;
        }
        for Matrices { tensor, p, q, .. } in &mut matrices {
            orthogonalize(q, options.orthogonalization_epsilon).map_err(failed)?;
            let _ = tensor.f_bmm_out(p, q).map_err(failed)?;
        }
        // In Python this starts when the uncompressed gradients have arrived; here, both are under way together.
        let p = Sum::start(group, p)?;
        Ok(Self { bucket, input, uncompressed, uncompressed_sum, p, q, matrices })
    }

    /// What runs at the end of the backward pass.
    pub(super) fn finish(mut self, this: &Shared, group: &ProcessGroup) -> Result<Tensor> {
        let options = &this.options;
        let ranks = group.world_size() as f64;
        let average = self.uncompressed_sum.wait()?.f_div_scalar_(ranks).map_err(failed)?;
        uncat(&average, &mut self.uncompressed).map_err(failed)?;

        // P is made orthonormal, so it need not be divided by the number of ranks.
        let p_memory = self.p.wait()?;
        for Matrices { tensor, p, q, .. } in &mut self.matrices {
            orthogonalize(p, options.orthogonalization_epsilon).map_err(failed)?;
            let _ = tensor.f_transpose(1, 2).and_then(|transposed| transposed.f_bmm_out(q, p)).map_err(failed)?;
        }
        let mut q_memory = Sum::start(group, self.q)?.wait()?;
        let _ = q_memory.f_div_scalar_(ranks).map_err(failed)?;
        for matrices in &mut self.matrices {
            matrices.decompress().map_err(failed)?;
        }

        let subtract = |mut input: Tensor| input.f_sub_(self.bucket.buffer()).map_err(failed);
        let error = self.input.map(subtract).transpose()?;
        let keep = |memory| Some(memory).filter(|_| options.warm_start);
        let mut state = this.state();
        // Without state from step to step, buckets may change.
        if options.use_error_feedback || options.warm_start {
            let layout = Some(layout_of(&self.bucket));
            let memory = Memory { layout, error, p: keep(p_memory), q: keep(q_memory) };
            state.buckets.insert(self.bucket.index(), memory);
        }
        state.count(self.bucket.is_last());
        Ok(self.bucket.into_buffer())
    }
}

impl Sum {
    fn start(group: &ProcessGroup, mut tensor: Tensor) -> Result<Self> {
        let work = (tensor.numel() > 0).then(|| group.all_reduce_async(&mut tensor, ReduceOp::Sum)).transpose()?;
        Ok(Self { tensor, work })
    }

    fn wait(&mut self) -> Result<Tensor> {
        self.work.take().map_or(Ok(()), Work::wait)?;
        Ok(self.tensor.shallow_clone())
    }
}

impl Matrices {
    /// Replaces the gradients by what P and Q say.
    fn decompress(&mut self) -> Result<(), TchError> {
        let _ = self.p.f_bmm_out(&self.tensor, &self.q.f_transpose(1, 2)?)?;
        for (i, gradient) in (0..).zip(&mut self.stacked) {
            gradient.f_copy_(&self.tensor.f_select(0, i)?)?;
        }
        Ok(())
    }
}

/// The sides of [`Matrices::tensor`].
const ROWS: usize = 1;
const COLUMNS: usize = 2;

/// The shape of P (for the rows of `tensor`) or Q (for its columns).
fn size(options: &PowerSgdOptions, tensor: &Tensor, side: usize) -> [i64; 3] {
    let size = tensor.size();
    [size[0], size[side], options.matrix_approximation_rank.min(size[ROWS]).min(size[COLUMNS])]
}

/// The gradients that are worth compressing (`_should_compress`), as matrices, and the others.
fn split(
    options: &PowerSgdOptions,
    bucket: &GradBucket,
    compression: &mut Compression,
) -> Result<(Vec<Tensor>, Vec<Tensor>), TchError> {
    let (mut compressed, mut uncompressed) = (Vec::new(), Vec::new());
    for gradient in bucket.gradients() {
        let elements = gradient.numel() as i64;
        let rows = gradient.size().first().copied().unwrap_or(1).max(1);
        let columns = elements / rows;
        let rank = options.matrix_approximation_rank.min(rows).min(columns);
        let sent = (rows + columns) * rank;
        compression.before += elements.unsigned_abs();
        if (sent as f64) * options.min_compression_rate < elements as f64 {
            compressed.push(gradient.f_view([rows, columns])?);
            compression.after += sent.unsigned_abs();
        } else {
            uncompressed.push(gradient.shallow_clone());
            compression.after += elements.unsigned_abs();
        }
    }
    Ok((compressed, uncompressed))
}

/// The matrices by shape, in the order of the first of each shape; stacked if asked for.
fn batches(options: &PowerSgdOptions, matrices: Vec<Tensor>) -> Result<Vec<(Vec<Tensor>, Tensor)>, TchError> {
    let mut shapes: Vec<(Vec<i64>, Vec<Tensor>)> = Vec::new();
    for matrix in matrices {
        let shape = matrix.size();
        match shapes.iter_mut().find(|(known, _)| *known == shape) {
            Some((_, same)) => same.push(matrix),
            None => shapes.push((shape, vec![matrix])),
        }
    }
    let mut batches = Vec::new();
    for (_, same) in shapes {
        if options.batch_tensors_with_same_shape && same.len() > 1 {
            let stack = Tensor::f_stack(&same, 0)?;
            batches.push((same, stack));
        } else {
            for matrix in same {
                batches.push((vec![], matrix.f_unsqueeze(0)?));
            }
        }
    }
    Ok(batches)
}

/// Each batch with its part of the memory of all Ps and of all Qs.
fn views(
    options: &PowerSgdOptions,
    batches: Vec<(Vec<Tensor>, Tensor)>,
    p: &Tensor,
    q: &Tensor,
) -> Result<Vec<Matrices>, TchError> {
    let part = |memory: &Tensor, start: &mut i64, size: [i64; 3]| {
        let length = size.iter().product();
        let part = memory.f_narrow(0, *start, length)?;
        *start += length;
        part.f_view(size)
    };
    let (mut p_start, mut q_start) = (0, 0);
    let matrices = batches.into_iter().map(|(stacked, tensor)| {
        let p = part(p, &mut p_start, size(options, &tensor, ROWS))?;
        let q = part(q, &mut q_start, size(options, &tensor, COLUMNS))?;
        Ok(Matrices { stacked, tensor, p, q })
    });
    matrices.collect()
}

fn copy(tensor: &Tensor) -> Result<Tensor, TchError> {
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor).map(|()| copy)
}

/// All tensors one after another.
fn cat(tensors: &[Tensor], like: (Kind, Device)) -> Result<Tensor, TchError> {
    if tensors.is_empty() {
        return Tensor::f_empty([0], like);
    }
    let flat = tensors.iter().map(|tensor| tensor.f_view(-1)).collect::<Result<Vec<_>, _>>()?;
    Tensor::f_cat(&flat, 0)
}

/// The reverse of [`cat`].
fn uncat(flat: &Tensor, tensors: &mut [Tensor]) -> Result<(), TchError> {
    let mut start = 0;
    for tensor in tensors {
        let length = tensor.numel() as i64;
        tensor.f_copy_(&flat.f_narrow(0, start, length)?.f_view_as(tensor)?)?;
        start += length;
    }
    Ok(())
}

/// Random Qs, the same on all ranks. Python seeds the default generators for them, and restores the CPU's; these come from
/// their own generator.
fn fill_randn(matrices: &[Matrices], seed: u64) -> Result<()> {
    let qs: Vec<_> = matrices.iter().map(|matrices| matrices.q.as_ptr().cast_mut()).collect();
    // SAFETY: pointers to tensors that `matrices` keeps alive.
    check("PowerSGD's random matrices", |error| unsafe { sys::ddp_fill_randn(qs.as_ptr(), qs.len(), seed, error) })
}

/// A hash of the names.
fn layout_of(bucket: &GradBucket) -> i64 {
    let bytes = bucket.names().iter().flat_map(|name| name.bytes().chain([0]));
    fnv::hash(bytes).cast_signed()
}

/// A state that was loaded may be of buckets in another order.
fn check_layout(bucket: &GradBucket, layout: Option<i64>) -> Result<()> {
    if layout.is_none_or(|layout| layout == layout_of(bucket)) {
        return Ok(());
    }
    let problem = format!("bucket {} has different parameters or a different order", bucket.index());
    Err(Error::StateMismatch { what: "the state of PowerSGD".into(), problem })
}

/// After [`PowerSgd::load_state_dict`](super::PowerSgd::load_state_dict), a tensor may be that of another model.
fn check_length(what: &str, bucket: &GradBucket, tensor: &Tensor, expected: i64) -> Result<()> {
    let buffer = bucket.buffer();
    if tensor.size() == [expected] && tensor.kind() == buffer.kind() && tensor.device() == buffer.device() {
        return Ok(());
    }
    let (index, found) = (bucket.index(), tensor.size());
    let problem = format!("{index}.{what} has shape {found:?}, expected [{expected}] of the bucket's dtype and device");
    Err(Error::StateMismatch { what: "the state of PowerSGD".into(), problem })
}
