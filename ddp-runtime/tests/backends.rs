//! The settings are the process's, so these tests have a process of their own, and take turns.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests fail by panicking")]

use std::sync::Mutex;

use ddp_runtime::backends::*;
use tch::{Device, Kind, Tensor};

static TURN: Mutex<()> = Mutex::new(());

/// Writes with indices that may repeat: which value stays is not determined.
fn put() -> Result<Tensor, tch::TchError> {
    let mut target = Tensor::zeros([3], (Kind::Float, Device::Cpu));
    target.f_put_(&Tensor::from_slice(&[1i64, 1]), &Tensor::from_slice(&[1f32, 2.0]), false)
}

#[test]
fn deterministic_algorithms_refuse_a_nondeterministic_operator() {
    let _turn = TURN.lock().unwrap();
    let state =
        || (are_deterministic_algorithms_enabled().unwrap(), is_deterministic_algorithms_warn_only_enabled().unwrap());
    assert_eq!(state(), (false, false));
    assert!(put().is_ok());

    use_deterministic_algorithms(true, false).unwrap();
    assert_eq!(state(), (true, false));
    let err = put().unwrap_err().to_string();
    assert!(err.contains("put_") && err.contains("deterministic"), "{err}");

    use_deterministic_algorithms(true, true).unwrap();
    assert_eq!(state(), (true, true));
    assert!(put().is_ok());

    use_deterministic_algorithms(false, false).unwrap();
    assert_eq!(state(), (false, false));
    assert!(put().is_ok());
}

#[test]
fn matmul_precision_can_be_set() {
    let _turn = TURN.lock().unwrap();
    assert_eq!(float32_matmul_precision().unwrap(), MatmulPrecision::Highest);
    for precision in [MatmulPrecision::High, MatmulPrecision::Medium, MatmulPrecision::Highest] {
        set_float32_matmul_precision(precision).unwrap();
        assert_eq!(float32_matmul_precision().unwrap(), precision);
    }
}

#[test]
fn cudnn_flags_can_be_set_and_default_to_pytorchs() {
    let _turn = TURN.lock().unwrap();
    let flags = || [cudnn_allow_tf32().unwrap(), cudnn_benchmark().unwrap(), cudnn_deterministic().unwrap()];
    assert_eq!(flags(), [true, false, false]);
    set_cudnn_allow_tf32(false).unwrap();
    assert_eq!(flags(), [false, false, false]);
    set_cudnn_benchmark(true).unwrap();
    assert_eq!(flags(), [false, true, false]);
    set_cudnn_deterministic(true).unwrap();
    assert_eq!(flags(), [false, true, true]);
    set_cudnn_allow_tf32(true).unwrap();
    set_cudnn_benchmark(false).unwrap();
    set_cudnn_deterministic(false).unwrap();
    assert_eq!(flags(), [true, false, false]);
}
