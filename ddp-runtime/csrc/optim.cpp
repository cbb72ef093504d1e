// The fused kernels behind torch.optim's `fused=True`, which tch's generated bindings leave out.
#include "grouping.hpp"
#include "guard.hpp"

#include <ATen/ScalarOps.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/_fused_adam.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <array>
#include <optional>
#include <vector>

namespace {
struct Lists {
  std::vector<at::Tensor> params, grads;
  std::array<std::vector<at::Tensor>, 4> states;
};

// The kernels walk over memory, and on the CPU do not check that it has the same order everywhere.
void check_layout(const at::Tensor& param, const at::Tensor& other, const char* what) {
  if (param.strides() == other.strides() || param.numel() <= 1) return;
  for (int64_t dim = 0; dim < param.dim(); ++dim)
    TORCH_CHECK(param.size(dim) == 1 || param.stride(dim) == other.stride(dim), "a parameter of shape ", param.sizes(),
                " has strides ", param.strides(), ", but its ", what, " has strides ", other.strides(),
                ": fused optimizers need equal strides");
}

Lists& lists_for(Groups<Lists>& groups, const at::Tensor& param, bool first_step = false) {
  check_layout(param, param.grad(), "gradient");
  Lists& lists = groups.of(param, first_step);
  lists.params.push_back(param);
  lists.grads.push_back(param.grad());
  return lists;
}

// A GradScaler's tensors on the device of a group. On the CPU `found_inf` is read here, which saves the kernels that undo the
// counting of a skipped step.
struct Scaling {
  std::optional<at::Tensor> grad_scale, found_inf;
  bool skips = false;

  Scaling(const ddp_scaling* scaling, at::Device device) {
    const auto there = [&](const ddp_tensor* tensor) {
      return tensor == nullptr ? std::optional<at::Tensor>() : tensor->to(device, tensor->scalar_type(), /*non_blocking=*/!device.is_cpu());
    };
    if (scaling == nullptr) return;
    grad_scale = there(scaling->grad_scale);
    found_inf = there(scaling->found_inf);
    if (!device.is_cpu()) return;
    skips = found_inf->item<float>() != 0;
    found_inf.reset();
  }
};

// Whether to skip a step in which momentum buffers are missing, by a look at `found_inf`: the kernel would leave a new
// buffer without content, and use it in the next step (torch/optim/sgd.py does). Without dampening no look is needed: a
// buffer of -0.0 makes any step the first one, to the last bit, since -0.0 * momentum + gradient = gradient.
bool skips_first_step(const ddp_sgd_options& options, const ddp_scaling* scaling) {
  return options.dampening != 0 && scaling != nullptr && scaling->found_inf->item<float>() != 0;
}

// torch/optim/sgd.py, _single_tensor_sgd, after what a GradScaler asks for.
void plain_sgd(const Lists& lists, const ddp_sgd_options& options, bool first_step, const Scaling& scaling) {
  for (size_t i = 0; i < lists.params.size(); ++i) {
    const at::Tensor& param = lists.params[i];
    if (scaling.grad_scale) lists.grads[i].div_(*scaling.grad_scale);
    at::Tensor grad = options.maximize ? lists.grads[i].neg() : lists.grads[i];
    if (options.weight_decay != 0) grad = grad.add(param, options.weight_decay);
    if (options.momentum != 0) {
      const at::Tensor& buffer = lists.states[0][i];
      if (first_step)
        buffer.copy_(grad);
      else
        // As a tensor, as Python does: the overload for a Scalar rounds it to the buffer's dtype first.
        buffer.mul_(at::native::wrapped_scalar_tensor(options.momentum)).add_(grad, 1 - options.dampening);
      grad = options.nesterov ? grad.add(buffer, options.momentum) : buffer;
    }
    param.add_(grad, -options.lr);
  }
}

// libtorch 2.13's fused SGD kernel for the CPU does not store parameters of these dtypes, but for the last few elements.
bool is_kernel_broken(at::Device device, at::ScalarType dtype) {
  return device.is_cpu() && (dtype == at::kHalf || dtype == at::kBFloat16);
}
}  // namespace

extern "C" {

int32_t ddp_sgd_step(ddp_tensor* const* parameters, ddp_tensor** momentum_buffers, size_t n,
                     const ddp_sgd_options* options, const ddp_scaling* scaling, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    Groups<Lists> groups;
    bool was_first_checked = false;
    for (size_t i = 0; i < n; ++i) {
      const at::Tensor& param = *parameters[i];
      if (!param.grad().defined()) continue;
      if (options->momentum == 0) {
        lists_for(groups, param);
        continue;
      }
      // On its first step a momentum buffer becomes a copy of the gradient.
      bool first_step = momentum_buffers[i] == nullptr;
      if (first_step && !was_first_checked) {
        if (skips_first_step(*options, scaling)) return;
        was_first_checked = true;
      }
      if (first_step && scaling != nullptr && options->dampening == 0) {
        momentum_buffers[i] = new at::Tensor(at::full_like(param.grad(), -0.0));
        first_step = false;
      } else if (first_step) {
        momentum_buffers[i] = new at::Tensor(at::empty_like(param.grad()));
      }
      check_layout(param, *momentum_buffers[i], "momentum buffer");
      lists_for(groups, param, first_step).states[0].push_back(*momentum_buffers[i]);
    }
    for (auto& [device, dtype, first_step, lists] : groups.sorted()) {
      const Scaling here(scaling, device);
      if (here.skips) continue;
      if (is_kernel_broken(device, dtype)) {
        plain_sgd(lists, *options, first_step, here);
        continue;
      }
      at::_fused_sgd_(lists.params, lists.grads, lists.states[0], options->weight_decay, options->momentum, options->lr,
                      options->dampening, options->nesterov, options->maximize, first_step, here.grad_scale,
                      here.found_inf);
    }
  });
}

int32_t ddp_adam_step(ddp_tensor* const* parameters, ddp_tensor** exp_avgs, ddp_tensor** exp_avg_sqs,
                      ddp_tensor** max_exp_avg_sqs, ddp_tensor** steps, size_t n, const ddp_adam_options* options,
                      const ddp_scaling* scaling, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    Groups<Lists> groups;
    for (size_t i = 0; i < n; ++i) {
      const at::Tensor& param = *parameters[i];
      if (!param.grad().defined()) continue;
      const auto ensure = [](ddp_tensor*& slot, auto make) {
        if (slot == nullptr) slot = new at::Tensor(make());
      };
      Lists& lists = lists_for(groups, param);
      const auto add = [&](size_t state, ddp_tensor*& slot) {
        ensure(slot, [&] { return at::zeros_like(param); });
        check_layout(param, *slot, "state");
        lists.states[state].push_back(*slot);
      };
      add(0, exp_avgs[i]);
      add(1, exp_avg_sqs[i]);
      if (options->amsgrad) add(2, max_exp_avg_sqs[i]);
      ensure(steps[i], [&] { return at::zeros({}, param.options().dtype(at::kFloat)); });
      lists.states[3].push_back(*steps[i]);
    }
    for (auto& [device, dtype, first_step, lists] : groups.sorted()) {
      const Scaling here(scaling, device);
      if (here.skips) continue;
      auto& steps_here = lists.states[3];
      at::_foreach_add_(steps_here, 1);
      const auto kernel = [&, &o = *options](auto fused) {
        auto& [exp_avgs_here, exp_avg_sqs_here, max_exp_avg_sqs_here, _] = lists.states;
        fused(lists.params, lists.grads, exp_avgs_here, exp_avg_sqs_here, max_exp_avg_sqs_here, steps_here, o.lr, o.beta1,
              o.beta2, o.weight_decay, o.eps, o.amsgrad, o.maximize, here.grad_scale, here.found_inf);
      };
      if (options->decoupled)
        kernel([](auto&&... args) { at::_fused_adamw_(args...); });
      else
        kernel([](auto&&... args) { at::_fused_adam_(args...); });
      // A step that the kernel skips does not count.
      if (here.found_inf)
        at::_foreach_sub_(steps_here, std::vector<at::Tensor>(steps_here.size(), *here.found_inf));
    }
  });
}

// torch/optim/optimizer.py, zero_grad with foreach kernels.
int32_t ddp_zero_grad(ddp_tensor* const* parameters, size_t n, bool set_to_none, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    Groups<std::vector<at::Tensor>> groups;
    for (size_t i = 0; i < n; ++i) {
      at::Tensor& grad = parameters[i]->mutable_grad();
      if (!grad.defined()) continue;
      // torch.optim detaches first; a view of a bucket can't be (and, made without a graph, need not be).
      if (set_to_none)
        grad.reset();
      else if (grad.is_sparse())
        grad.zero_();
      else
        groups.of(grad).push_back(grad);
    }
    for (auto& group : groups.sorted()) at::_foreach_zero_(group.lists);
  });
}
}
