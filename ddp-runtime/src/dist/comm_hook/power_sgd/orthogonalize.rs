//! `torch/distributed/algorithms/ddp_comm_hooks/powerSGD_hook.py`, `_orthogonalize`.

use tch::{Kind, TchError, Tensor};

/// Makes the columns of each matrix orthonormal, in place. `matrices` has the shape [number of matrices, rows, columns], with
/// no more columns than rows. `epsilon` is added to the norm of each column, where the Gram-Schmidt process is used.
pub(super) fn orthogonalize(matrices: &mut Tensor, epsilon: f64) -> Result<(), TchError> {
    let size = matrices.size();
    // QR factorization is faster with more than two columns, and does not exist in half precision.
    if size[2] <= 2 || matches!(matrices.kind(), Kind::Half | Kind::BFloat16) {
        return gram_schmidt(matrices, epsilon);
    }
    let r = Tensor::f_empty([size[0], size[2], size[2]], (matrices.kind(), matrices.device()))?;
    Tensor::f_linalg_qr_out(matrices, &r, matrices, "reduced").map(drop)
}

fn gram_schmidt(matrices: &mut Tensor, epsilon: f64) -> Result<(), TchError> {
    let columns = matrices.size()[2];
    for i in 0..columns {
        let mut column = matrices.f_narrow(2, i, 1)?;
        let mut norm = column.f_norm_scalaropt_dim(2, 1, true)?;
        if epsilon != 0.0 {
            norm = norm.f_add_scalar(epsilon)?;
        }
        let _ = column.f_div_(&norm)?;
        if i + 1 < columns {
            let mut rest = matrices.f_narrow(2, i + 1, columns - i - 1)?;
            let projection = column.f_mul(&rest)?.f_sum_dim_intlist(1, true, None::<Kind>)?.f_mul(&column)?;
            let _ = rest.f_sub_(&projection)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn orthogonalize_makes_columns_orthonormal_for_any_rank() {
        for rank in 1..=4 {
            let mut matrices = Tensor::arange(2 * 7 * rank, (Kind::Double, Device::Cpu)).view([2, 7, rank]).sin();
            orthogonalize(&mut matrices, 0.0).unwrap();
            let products = matrices.transpose(1, 2).bmm(&matrices);
            let identity = Tensor::eye(rank, (Kind::Double, Device::Cpu)).expand([2, rank, rank], false);
            assert!(products.allclose(&identity, 1e-9, 1e-9, false), "rank {rank}: {products:?}");
        }
    }

    #[test]
    fn orthogonalize_with_an_epsilon_keeps_columns_of_zeros() {
        let mut matrices = Tensor::zeros([1, 3, 2], (Kind::Float, Device::Cpu));
        orthogonalize(&mut matrices, 1e-8).unwrap();
        assert_eq!(matrices, matrices.zeros_like());
    }
}
