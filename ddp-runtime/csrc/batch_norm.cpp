// torch/nn/modules/_functions.py, SyncBatchNorm: batch normalization with the statistics of all ranks' batches.
//
// On CUDA with Python's kernels in Python's order. Python refuses CPU tensors; here they are normalized by the formulas of
// ATen's own batch_norm (aten/src/ATen/native/Normalization.cpp).
#include "group.hpp"
#include "guard.hpp"

#include <ATen/OpMathType.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/batch_norm_backward_elemt.h>
#include <ATen/ops/batch_norm_backward_reduce.h>
#include <ATen/ops/batch_norm_elemt.h>
#include <ATen/ops/batch_norm_gather_stats_with_counts.h>
#include <ATen/ops/batch_norm_stats.h>
#include <ATen/ops/batch_norm_update_stats.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>
#include <tuple>
#include <vector>

using at::Tensor;

namespace {
struct Settings {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  Tensor running_mean, running_var;  // undefined if they are not tracked
  double momentum, eps;
};

// The statistics of all ranks' batches, in the dtype that half precision is accumulated in, and each rank's count.
struct Statistics {
  Tensor mean, invstd, counts;
};

Tensor accumulated(const Tensor& tensor) { return tensor.to(at::toOpMathType(tensor.scalar_type())); }

// A tensor of one value per channel, seen with as many dimensions as `like`.
Tensor per_channel(const Tensor& tensor, const Tensor& like) {
  std::vector<int64_t> shape(like.dim(), 1);
  shape[1] = -1;
  return tensor.view(shape);
}

std::vector<int64_t> all_but_channels(const Tensor& tensor) {
  std::vector<int64_t> dims{0};
  for (int64_t dim = 2; dim < tensor.dim(); ++dim) dims.push_back(dim);
  return dims;
}

// What this rank sends: mean, spread (CUDA: invstd, CPU: variance) and count. Double on the CPU. A rank with an empty
// batch sends a count of zero, and a spread that the others can compute with.
Tensor local_statistics(const Tensor& input, double eps) {
  const int64_t channels = input.size(1);
  const auto options = input.options().dtype(input.is_cuda() ? at::toOpMathType(input.scalar_type()) : at::kDouble);
  if (input.numel() == 0)
    return at::cat({at::zeros({channels}, options), at::ones({channels}, options), at::zeros({1}, options)});
  const auto [mean, spread] = input.is_cuda() ? at::batch_norm_stats(input, eps)
                                              : at::batch_norm_update_stats(accumulated(input), {}, {}, /*momentum=*/0);
  const Tensor count = at::full({1}, input.numel() / channels, options);
  return at::cat({mean.to(options), spread.to(options), count});
}

// The statistics that each rank sent, in the order of ranks.
Tensor gather(c10d::ProcessGroup& group, Tensor local) {
  Tensor all = at::empty({group.getSize(), local.numel()}, local.options());
  if (local.is_cuda()) {
    Tensor flat = all.view({-1});
    group.all_gather_single(flat, local)->wait();
  } else {
    std::vector<std::vector<Tensor>> outputs{all.unbind(0)};
    std::vector<Tensor> inputs{local};
    group.allgather(outputs, inputs)->wait();
  }
  return all;
}

Statistics combine_cuda(const Tensor& input, Tensor all, const Settings& settings) {
  // The kernel adds rank after rank, and divides by the count so far: ranks with an empty batch go to the end. (Python
  // leaves them out, which waits for the GPU.)
  const Tensor order = all.select(1, -1).clamp_max(1).argsort(/*stable=*/true, 0, /*descending=*/true);
  all = all.index_select(0, order);
  const int64_t channels = input.size(1);
  const Tensor mean_all = all.narrow(1, 0, channels), invstd_all = all.narrow(1, channels, channels);
  const Tensor counts = all.select(1, -1).contiguous();

  // It takes counts in the running statistics' dtype, which can't hold them if it is a half precision; and without any
  // sample, which only a rank with an empty batch can't exclude, it gives NaN.
  const bool tracked = settings.running_mean.defined();
  const bool in_place = tracked && settings.running_mean.scalar_type() == all.scalar_type() && input.numel() > 0;
  Tensor running_mean = settings.running_mean, running_var = settings.running_var;
  if (tracked && !in_place) {
    running_mean = running_mean.to(all.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
    running_var = running_var.to(all.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  }
  // Of the input, it takes the dtype and the size of an index.
  const auto [mean, invstd] = at::batch_norm_gather_stats_with_counts(
      tracked ? input : mean_all, mean_all, invstd_all, running_mean, running_var, settings.momentum, settings.eps, counts);
  if (tracked && !in_place) {
    const Tensor any = counts.sum().ge(1);
    settings.running_mean.copy_(at::where(any, running_mean, settings.running_mean));
    settings.running_var.copy_(at::where(any, running_var, settings.running_var));
  }
  return {mean, invstd, counts.to(at::kInt)};
}

Statistics combine_cpu(const Tensor& input, const Tensor& all, const Settings& settings) {
  const int64_t channels = input.size(1);
  const Tensor mean_all = all.narrow(1, 0, channels), var_all = all.narrow(1, channels, channels);
  const Tensor counts = all.narrow(1, 2 * channels, 1);
  const double total = counts.sum().item<double>();
  TORCH_CHECK(total != 1, "batch statistics need more than one value per channel, and all ranks together have one");
  const Tensor mean = mean_all.mul(counts).sum(0).div(total);
  const Tensor squares = mean_all.sub(mean).square().add(var_all).mul(counts).sum(0);
  if (settings.running_mean.defined() && total > 0) {
    const auto update = [&](const Tensor& running, const Tensor& batch) {
      running.copy_(batch.mul(settings.momentum).add(running, 1 - settings.momentum));
    };
    update(settings.running_mean, mean);
    update(settings.running_var, squares.div(total - 1));
  }
  const auto dtype = at::toOpMathType(input.scalar_type());
  return {mean.to(dtype), squares.div(total).add(settings.eps).rsqrt().to(dtype), counts};
}

Tensor normalize_cpu(const Tensor& input, const Tensor& weight, const Tensor& bias, const Statistics& statistics) {
  const Tensor scale = weight.defined() ? statistics.invstd * weight : statistics.invstd;
  const Tensor offset = weight.defined() ? bias - statistics.mean * scale : -statistics.mean * scale;
  const Tensor output = at::addcmul(per_channel(offset, input), accumulated(input), per_channel(scale, input));
  return output.to(input.scalar_type());
}

// sum_dy, sum_dy_xmu, and the gradients of weight and bias, of this rank's batch.
std::tuple<Tensor, Tensor, Tensor, Tensor> reduce_cpu(const Tensor& grad, const Tensor& input,
                                                      const Statistics& statistics) {
  const auto dims = all_but_channels(input);
  const Tensor dy = accumulated(grad);
  const Tensor sum_dy = dy.sum(dims);
  const Tensor sum_dy_xmu = accumulated(input).sub(per_channel(statistics.mean, input)).mul_(dy).sum(dims);
  return {sum_dy, sum_dy_xmu, sum_dy_xmu * statistics.invstd, sum_dy};
}

Tensor grad_input_cpu(const Tensor& grad, const Tensor& input, const Tensor& weight, const Statistics& statistics,
                      const Tensor& sum_dy, const Tensor& sum_dy_xmu) {
  const double total = statistics.counts.sum().item<double>();
  const Tensor scale = weight.defined() ? statistics.invstd * weight : statistics.invstd;
  const Tensor slope = sum_dy_xmu.div(total) * statistics.invstd * statistics.invstd;
  const Tensor xmu = accumulated(input).sub(per_channel(statistics.mean, input));
  Tensor result = accumulated(grad).sub(per_channel(sum_dy.div(total), input));
  result.addcmul_(xmu, per_channel(slope, input), -1).mul_(per_channel(scale, input));
  return result.to(input.scalar_type());
}

// Python's kernels take these layouts.
Tensor contiguous(const Tensor& input) {
  using at::MemoryFormat;
  const bool channels_last =
      input.is_contiguous(MemoryFormat::ChannelsLast) || input.is_contiguous(MemoryFormat::ChannelsLast3d);
  return channels_last ? input : input.contiguous();
}

struct SyncBatchNorm : public torch::autograd::Function<SyncBatchNorm> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& any_input,
                        const std::optional<Tensor>& weight_or_none, const std::optional<Tensor>& bias_or_none,
                        const Settings& settings) {
    const Tensor input = any_input.is_cuda() ? contiguous(any_input) : any_input;
    const Tensor weight = weight_or_none ? weight_or_none->contiguous() : Tensor();
    const Tensor bias = bias_or_none ? bias_or_none->contiguous() : Tensor();
    const Tensor all = gather(*settings.group, local_statistics(input, settings.eps));
    const Statistics statistics = input.is_cuda() ? combine_cuda(input, all, settings) : combine_cpu(input, all, settings);
    context->save_for_backward({input, weight, statistics.mean, statistics.invstd, statistics.counts});
    // The graph shares the group, which may lose its other owners before the backward pass.
    context->saved_data["group"] = settings.group;
    if (input.numel() == 0) return at::empty_like(input);
    if (!input.is_cuda()) return normalize_cpu(input, weight, bias, statistics);
    return at::batch_norm_elemt(input, weight, bias, statistics.mean, statistics.invstd, settings.eps);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "SyncBatchNorm does not support double backward: drop create_graph");
    const auto saved = context->get_saved_variables();
    const Tensor &input = saved[0], &weight = saved[1];
    const Statistics statistics{saved[2], saved[3], saved[4]};
    const auto group = context->saved_data["group"].toCustomClass<c10d::ProcessGroup>();
    const bool is_cuda = input.is_cuda(), is_empty = input.numel() == 0;
    const bool for_input = context->needs_input_grad(0);
    const bool for_weight = weight.defined() && context->needs_input_grad(1);
    const bool for_bias = weight.defined() && context->needs_input_grad(2);
    const Tensor grad = is_cuda ? grads[0].contiguous(input.suggest_memory_format()) : grads[0];

    Tensor sum_dy, sum_dy_xmu, grad_input, grad_weight, grad_bias;
    if (is_empty) {
      sum_dy = at::zeros_like(statistics.mean);
      sum_dy_xmu = sum_dy;
      if (weight.defined()) grad_weight = grad_bias = at::zeros_like(weight);
    } else if (is_cuda) {
      std::tie(sum_dy, sum_dy_xmu, grad_weight, grad_bias) = at::batch_norm_backward_reduce(
          grad, input, statistics.mean, statistics.invstd, weight, for_input, for_weight, for_bias);
    } else {
      std::tie(sum_dy, sum_dy_xmu, grad_weight, grad_bias) = reduce_cpu(grad, input, statistics);
    }
    if (for_input) {
      // A rank with an empty batch takes part, too. (Averaging the weights' gradients is DDP's part.)
      std::vector<Tensor> combined{at::cat({sum_dy, sum_dy_xmu})};
      group->allreduce(combined)->wait();
      const int64_t channels = sum_dy.numel();
      sum_dy = combined[0].narrow(0, 0, channels);
      sum_dy_xmu = combined[0].narrow(0, channels, channels);
      if (is_empty) {
        grad_input = at::zeros_like(input);
      } else if (is_cuda) {
        const Tensor scale = weight.defined() ? weight.to(statistics.mean.scalar_type()) : weight;
        grad_input = at::batch_norm_backward_elemt(grad, input, statistics.mean, statistics.invstd, scale, sum_dy,
                                                   sum_dy_xmu, statistics.counts);
      } else {
        grad_input = grad_input_cpu(grad, input, weight, statistics, sum_dy, sum_dy_xmu);
      }
    }
    return {grad_input, for_weight ? grad_weight.to(weight.scalar_type()) : Tensor(),
            for_bias ? grad_bias.to(weight.scalar_type()) : Tensor(), Tensor()};
  }
};
}  // namespace

extern "C" int32_t ddp_sync_batch_norm(ddp_group* group, const ddp_tensor* input, const ddp_batch_norm* norm,
                                       ddp_tensor** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto optional = [](const ddp_tensor* tensor) {
      return tensor == nullptr ? std::optional<Tensor>() : std::optional<Tensor>(*tensor);
    };
    const Settings settings{group->group, optional(norm->running_mean).value_or(Tensor()),
                            optional(norm->running_var).value_or(Tensor()), norm->momentum, norm->eps};
    *out = new Tensor(SyncBatchNorm::apply(*input, optional(norm->weight), optional(norm->bias), settings));
  });
}
