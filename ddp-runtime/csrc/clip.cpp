// torch/nn/utils/clip_grad.py: the norm of gradients, and limits for them, with the same operators in the same order.
#include "grouping.hpp"
#include "guard.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_clamp_max.h>
#include <ATen/ops/_foreach_clamp_min.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <vector>

namespace {
// The gradients of those parameters that are trained and have one.
struct Gradients {
  Groups<std::vector<at::Tensor>> groups;
  at::Device first = at::kCPU;
  bool empty = true;

  Gradients(ddp_tensor* const* parameters, size_t n) {
    for (size_t i = 0; i < n; ++i) {
      const at::Tensor& grad = parameters[i]->grad();
      if (!grad.defined()) continue;
      if (empty) first = grad.device();
      empty = false;
      groups.of(grad).push_back(grad);
    }
  }

  // _get_total_norm
  at::Tensor norm(double norm_type) {
    if (empty) return at::zeros({}, at::kFloat);
    std::vector<at::Tensor> norms;
    for (const auto& group : groups.sorted())
      for (const auto& norm : at::_foreach_norm(group.lists, norm_type)) norms.push_back(norm.to(first));
    return at::linalg_vector_norm(at::stack(norms), norm_type);
  }
};
}  // namespace

extern "C" {

int32_t ddp_grad_norm(ddp_tensor* const* parameters, size_t n, double norm_type, ddp_tensor** out,
                      ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    *out = new at::Tensor(Gradients(parameters, n).norm(norm_type));
  });
}

int32_t ddp_clip_grad_norm(ddp_tensor* const* parameters, size_t n, double max_norm, double norm_type, ddp_tensor** out,
                           ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    Gradients gradients(parameters, n);
    at::Tensor total = gradients.norm(norm_type);
    // _clip_grads_with_norm_. Python's `max_norm / tensor` multiplies by the reciprocal.
    const at::Tensor factor = total.add(1e-6).reciprocal().mul(max_norm).clamp_max(1.0);
    for (const auto& group : gradients.groups.sorted()) at::_foreach_mul_(group.lists, factor.to(group.device));
    *out = new at::Tensor(std::move(total));
  });
}

int32_t ddp_clip_grad_value(ddp_tensor* const* parameters, size_t n, double clip_value, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    Gradients gradients(parameters, n);
    for (const auto& group : gradients.groups.sorted()) {
      at::_foreach_clamp_min_(group.lists, -clip_value);
      at::_foreach_clamp_max_(group.lists, clip_value);
    }
  });
}
}
