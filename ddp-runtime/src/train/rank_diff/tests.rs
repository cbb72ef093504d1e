//! Tests of the comparison, with a thread for each rank.

use std::sync::{Barrier, Mutex};

use tch::{Device, Kind, Tensor};

use super::*;
use crate::train::optim::{AdamW, AdamWOptions, Optimizer, Sgd, SgdOptions};

/// Ranks that are threads.
struct Threads<'a> {
    rank: usize,
    barrier: &'a Barrier,
    boxes: &'a [Mutex<Vec<u8>>],
}

impl Ranks for Threads<'_> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.boxes.len()
    }

    fn largest(&self, numbers: Vec<i64>) -> Result<Vec<i64>> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let all = self.gather(&bytes)?;
        let numbers = |bytes: &Vec<u8>| -> Vec<i64> {
            bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect()
        };
        let all: Vec<_> = all.iter().map(numbers).collect();
        assert!(all.iter().all(|other| other.len() == all[0].len()), "ranks exchange different things");
        Ok((0..all[0].len()).map(|i| all.iter().map(|numbers| numbers[i]).max().unwrap()).collect())
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        *self.boxes[self.rank].lock().unwrap() = bytes.to_vec();
        self.barrier.wait();
        let all = self.boxes.iter().map(|bytes| bytes.lock().unwrap().clone()).collect();
        self.barrier.wait();
        Ok(all)
    }

    fn of_rank0(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(self.gather(bytes)?.swap_remove(0))
    }
}

/// What all ranks find, which is the same.
fn among(world_size: usize, own: impl Fn(usize) -> Result<Tensors> + Sync) -> RankDiff {
    let (barrier, boxes) = (Barrier::new(world_size), (0..world_size).map(|_| Mutex::default()).collect::<Vec<_>>());
    let (barrier, boxes, own) = (&barrier, &boxes, &own);
    let mut found: Vec<RankDiff> = std::thread::scope(|scope| {
        let compare = |rank| move || compare_among(&Threads { rank, barrier, boxes }, own(rank), 7).unwrap();
        let threads: Vec<_> = (0..world_size).map(|rank| scope.spawn(compare(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let last = found.pop().unwrap();
    found.iter().for_each(|other| assert_eq!((&other.first, &other.error), (&last.first, &last.error)));
    last
}

fn parameter(name: &str, tensor: Tensor) -> Tensors {
    let mut tensors = Tensors::default();
    tensors.add(Category::Parameter, name.into(), tensor);
    tensors
}

/// `shape` of this dtype, with the same elements on each rank.
fn filled(kind: Kind, shape: &[i64]) -> Tensor {
    let count: i64 = shape.iter().product();
    Tensor::arange(count, (Kind::Int64, Device::Cpu)).fmod(2).to_kind(kind).view(shape)
}

#[test]
fn flipped_bit_is_found_by_index_in_every_dtype() {
    for kind in [
        Kind::Float,
        Kind::Double,
        Kind::Half,
        Kind::BFloat16,
        Kind::Int64,
        Kind::Int,
        Kind::Int16,
        Kind::Int8,
        Kind::Uint8,
        Kind::Bool,
        Kind::ComplexFloat,
        Kind::ComplexDouble,
    ] {
        for (world_size, odd) in [(2, 1), (4, 2)] {
            let diff = among(world_size, |rank| {
                let x = filled(kind, &[17, 30]);
                if rank == odd {
                    let size = kind.elt_size_in_bytes() as i64;
                    let _ = x.view([-1]).view_dtype(Kind::Uint8).narrow(0, (5 * 30 + 22) * size, 1).bitwise_xor_(1);
                }
                Ok(parameter("w", x))
            });
            let [first] = diff.first.as_slice() else { panic!("{kind:?}: {diff:?}") };
            assert_eq!((&*first.name, first.index.as_slice()), ("w", &[5, 22][..]), "{kind:?}");
            assert_eq!(first.odd_ranks(), if world_size == 2 { vec![] } else { vec![odd] });
            assert_eq!((first.dtype.clone(), first.bits.len()), (format!("{kind:?}"), world_size));
            assert_eq!(first.bits[0].len(), 2 + 2 * kind.elt_size_in_bytes());
            assert_eq!(diff.differing, [(Category::Parameter, 1)].into());
            assert!(!diff.agrees());
        }
    }
}

#[test]
fn equal_tensors_agree_whatever_their_strides_and_numbers() {
    let diff = among(3, |rank| {
        let mut tensors = parameter("nan", Tensor::from_slice(&[f32::NAN, 1.0]));
        let x = filled(Kind::Float, &[4, 6]);
        let x = if rank == 1 { x.transpose(0, 1).contiguous().transpose(0, 1) } else { x };
        tensors.add(Category::Parameter, "strided".into(), x);
        tensors.add(Category::Parameter, "empty".into(), Tensor::zeros([0, 3], (Kind::Float, Device::Cpu)));
        tensors.add(Category::Parameter, "scalar".into(), Tensor::from(0.5_f32));
        Ok(tensors)
    });
    assert_eq!((diff.tensors, diff.step, diff.world_size), (4, 7, 3));
    assert!(diff.agrees() && diff.first.is_empty() && diff.mismatches.is_empty(), "{diff:?}");
}

#[test]
fn first_of_several_differences_is_reported_in_each_category() {
    let diff = among(2, |rank| {
        let mut tensors = Tensors::default();
        let wide = |places: &[i64]| {
            let x = Tensor::zeros([3, 100_000], (Kind::Float, Device::Cpu));
            for place in places.iter().filter(|_| rank == 1) {
                let _ = x.view([-1]).narrow(0, *place, 1).fill_(1.0);
            }
            x
        };
        tensors.add(Category::Parameter, "a".into(), wide(&[]));
        tensors.add(Category::Parameter, "b".into(), wide(&[250_000, 100_001, 299_999]));
        tensors.add(Category::Parameter, "c".into(), wide(&[0]));
        tensors.add(Category::Buffer, "mean".into(), Tensor::from(rank as i64));
        tensors.add(Category::Gradient, "b".into(), wide(&[299_999]));
        Ok(tensors)
    });
    let first: Vec<_> = diff.first.iter().map(|first| (&*first.name, first.index.clone())).collect();
    assert_eq!(first, [("b", vec![1, 1]), ("mean", vec![]), ("b", vec![2, 99_999])]);
    let counts = [(Category::Parameter, 2), (Category::Buffer, 1), (Category::Gradient, 1)];
    assert_eq!((diff.tensors, diff.differing), (5, counts.into()));
}

#[test]
fn tensors_that_ranks_lack_or_have_in_another_form_are_mismatches() {
    let diff = among(3, |rank| {
        let mut tensors = parameter("same", Tensor::from_slice(&[if rank == 2 { 1.0_f32 } else { 2.0 }]));
        let shape: &[i64] = if rank == 1 { &[3, 2] } else { &[2, 3] };
        tensors.add(Category::Parameter, "shape".into(), filled(Kind::Float, shape));
        let kind = if rank == 2 { Kind::Half } else { Kind::Float };
        tensors.add(Category::Buffer, "dtype".into(), filled(kind, &[2]));
        if rank != 1 {
            tensors.add(Category::Gradient, "lacking".into(), filled(Kind::Float, &[2]));
        }
        if rank == 2 {
            tensors.add(Category::Gradient, "more".into(), filled(Kind::Float, &[1]));
        }
        tensors.add(Category::Gradient, "cleared".into(), Tensor::new());
        Ok(tensors)
    });
    let found: Vec<_> = diff
        .mismatches
        .iter()
        .map(|one| (one.rank, &*one.name, one.form.as_deref(), one.form_on_rank0.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            (1, "shape", Some("[3, 2] Float"), Some("[2, 3] Float")),
            (1, "lacking", None, Some("[2] Float")),
            (2, "dtype", Some("[2] Half"), Some("[2] Float")),
            (2, "more", Some("[1] Float"), None),
        ]
    );
    assert_eq!((diff.mismatched, diff.tensors, diff.differing), (4, 1, [(Category::Parameter, 1)].into()));
    assert_eq!(diff.first[0].odd_ranks(), [2]);
}

#[test]
fn rank_that_fails_ends_the_comparison_on_all_ranks() {
    let failed = || Error::Invalid("out of memory".into());
    let diff = among(3, |rank| if rank == 1 { Err(failed()) } else { Ok(Tensors::default()) });
    assert_eq!(diff.error.as_deref(), Some("rank 1: out of memory"));
}

#[test]
fn model_and_optimizer_are_compared_by_the_names_of_a_snapshot() {
    let vs = tch::nn::VarStore::new(Device::Cpu);
    let layer = tch::nn::linear(vs.root() / "l", 3, 2, Default::default());
    let _ = (vs.root() / "norm").add("running_mean", filled(Kind::Float, &[2]), false);
    let mut optimizer = AdamW::new(&vs, AdamWOptions::default());
    layer.ws.sum(Kind::Float).backward();
    optimizer.step().unwrap();
    let names = |tensors: Tensors| -> Vec<(Category, String)> {
        tensors.named.into_iter().map(|named| (named.form.category, named.form.name)).collect()
    };
    let found = names(collect(&vs, &optimizer).unwrap());
    let expected = [
        (Category::Parameter, "l.bias"),
        (Category::Parameter, "l.weight"),
        (Category::Buffer, "norm.running_mean"),
        (Category::Gradient, "l.weight"),
        (Category::OptimizerState, "l.weight.exp_avg"),
        (Category::OptimizerState, "l.weight.exp_avg_sq"),
        (Category::OptimizerState, "l.weight.step"),
    ];
    assert_eq!(found, expected.map(|(category, name)| (category, name.to_owned())));
    let sparse = filled(Kind::Float, &[2]).to_sparse_sparse_dim(1);
    let tensors = parameter("sparse", sparse);
    assert_eq!((tensors.named.len(), tensors.skipped), (0, 1));
    let sgd: Box<dyn Optimizer> = Box::new(Sgd::new(&vs, SgdOptions::default()));
    assert!(!collect(&vs, &sgd).unwrap().is_sharded);
}
