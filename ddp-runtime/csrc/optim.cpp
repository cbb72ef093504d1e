// The fused kernels behind torch.optim's `fused=True`, which tch's generated bindings leave out.
#include "guard.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <array>
#include <map>
#include <vector>

namespace {
// A fused kernel takes tensors of one device and dtype (torch.optim groups its lists in the same way).
struct Key {
  at::Device device;
  at::ScalarType dtype;
  bool first_step;
  bool operator<(const Key& other) const {
    return std::make_tuple(device.type(), device.index(), dtype, first_step) <
           std::make_tuple(other.device.type(), other.device.index(), other.dtype, other.first_step);
  }
};

struct Lists {
  std::vector<at::Tensor> params, grads;
  std::array<std::vector<at::Tensor>, 4> states;
};

Lists& lists_for(std::map<Key, Lists>& groups, const at::Tensor& param, bool first_step) {
  Lists& lists = groups[Key{param.device(), param.scalar_type(), first_step}];
  lists.params.push_back(param);
  lists.grads.push_back(param.grad());
  return lists;
}
}  // namespace

extern "C" {

int32_t ddp_sgd_step(ddp_tensor* const* parameters, ddp_tensor** momentum_buffers, size_t n,
                     const ddp_sgd_options* options, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    std::map<Key, Lists> groups;
    for (size_t i = 0; i < n; ++i) {
      const at::Tensor& param = *parameters[i];
      if (!param.grad().defined()) continue;
      if (options->momentum == 0) {
        lists_for(groups, param, false);
        continue;
      }
      // On its first step a momentum buffer becomes a copy of the gradient.
      const bool first_step = momentum_buffers[i] == nullptr;
      if (first_step) momentum_buffers[i] = new at::Tensor(at::empty_like(param.grad()));
      lists_for(groups, param, first_step).states[0].push_back(*momentum_buffers[i]);
    }
    for (auto& [key, lists] : groups)
      at::_fused_sgd_(lists.params, lists.grads, lists.states[0], options->weight_decay, options->momentum, options->lr,
                      options->dampening, options->nesterov, options->maximize, key.first_step);
  });
}

int32_t ddp_adam_step(ddp_tensor* const* parameters, ddp_tensor** exp_avgs, ddp_tensor** exp_avg_sqs,
                      ddp_tensor** max_exp_avg_sqs, ddp_tensor** steps, size_t n, const ddp_adam_options* options,
                      ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    std::map<Key, Lists> groups;
    for (size_t i = 0; i < n; ++i) {
      const at::Tensor& param = *parameters[i];
      if (!param.grad().defined()) continue;
      const auto ensure = [](ddp_tensor*& slot, auto make) {
        if (slot == nullptr) slot = new at::Tensor(make());
      };
      ensure(exp_avgs[i], [&] { return at::zeros_like(param); });
      ensure(exp_avg_sqs[i], [&] { return at::zeros_like(param); });
      ensure(steps[i], [&] { return at::zeros({}, param.options().dtype(at::kFloat)); });
      Lists& lists = lists_for(groups, param, false);
      lists.states[0].push_back(*exp_avgs[i]);
      lists.states[1].push_back(*exp_avg_sqs[i]);
      if (options->amsgrad) {
        ensure(max_exp_avg_sqs[i], [&] { return at::zeros_like(param); });
        lists.states[2].push_back(*max_exp_avg_sqs[i]);
      }
      lists.states[3].push_back(*steps[i]);
    }
    for (auto& [key, lists] : groups) {
      at::_foreach_add_(lists.states[3], 1);
      const auto kernel = [&](auto fused) {
        fused(lists.params, lists.grads, lists.states[0], lists.states[1], lists.states[2], lists.states[3]);
      };
      const auto& o = *options;
      if (o.decoupled)
        kernel([&](auto&... lists) {
          at::_fused_adamw_(lists..., o.lr, o.beta1, o.beta2, o.weight_decay, o.eps, o.amsgrad, o.maximize);
        });
      else
        kernel([&](auto&... lists) {
          at::_fused_adam_(lists..., o.lr, o.beta1, o.beta2, o.weight_decay, o.eps, o.amsgrad, o.maximize);
        });
    }
  });
}

// torch/nn/utils/clip_grad.py, _get_total_norm and _clip_grads_with_norm_, with the same operators in the same order.
int32_t ddp_clip_grad_norm(ddp_tensor* const* gradients, size_t n, double max_norm, double norm_type, ddp_tensor** out,
                           ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    std::map<Key, std::vector<at::Tensor>> groups;
    for (size_t i = 0; i < n; ++i)
      groups[Key{gradients[i]->device(), gradients[i]->scalar_type(), false}].push_back(*gradients[i]);
    const at::Device first = gradients[0]->device();
    std::vector<at::Tensor> norms;
    for (const auto& [key, list] : groups)
      for (const auto& norm : at::_foreach_norm(list, norm_type)) norms.push_back(norm.to(first));
    at::Tensor total = at::linalg_vector_norm(at::stack(norms), norm_type);
    // Python's `max_norm / tensor` multiplies by the reciprocal.
    const at::Tensor factor = total.add(1e-6).reciprocal().mul(max_norm).clamp_max(1.0);
    for (const auto& [key, list] : groups) at::_foreach_mul_(list, factor.to(key.device));
    *out = new at::Tensor(std::move(total));
  });
}

int32_t ddp_zero_grad(ddp_tensor* const* parameters, size_t n, bool set_to_none, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    for (size_t i = 0; i < n; ++i) {
      at::Tensor& grad = parameters[i]->mutable_grad();
      if (!grad.defined()) continue;
      if (set_to_none) {
        grad.reset();
      } else {
        // torch.optim detaches first; a view of a bucket can't be (and, made without a graph, need not be).
        grad.zero_();
      }
    }
  });
}
}
