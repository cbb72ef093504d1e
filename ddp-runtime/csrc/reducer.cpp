// torch/nn/parallel/distributed.py's DistributedDataParallel, its C++ half: the same calls in the same order.
#include "group.hpp"
#include "guard.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>

struct ddp_reducer {
  std::shared_ptr<c10d::Reducer> reducer;
  bool find_unused_parameters;
};

namespace {
// _sync_module_states' broadcast bucket (torch/distributed/utils.py).
constexpr size_t kBroadcastBucketBytes = 250 * 1024 * 1024;

std::vector<at::Tensor> collect(ddp_tensor* const* tensors, size_t n) {
  std::vector<at::Tensor> collected;
  collected.reserve(n);
  for (size_t i = 0; i < n; ++i) collected.push_back(*tensors[i]);
  return collected;
}
}  // namespace

extern "C" {

int32_t ddp_reducer_new(ddp_group* group, ddp_tensor* const* parameters, const char* const* names, size_t n_parameters,
                        ddp_tensor* const* buffers, size_t n_buffers, const ddp_reducer_options* options,
                        ddp_reducer** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto params = collect(parameters, n_parameters);
    c10d::verify_params_across_processes(group->group, params, std::nullopt);

    std::vector<at::Tensor> states;
    for (const auto& tensor : params) states.push_back(tensor.detach());
    for (size_t i = 0; i < n_buffers; ++i) states.push_back(buffers[i]->detach());
    c10d::broadcast_coalesced(group->group, states, kBroadcastBucketBytes, 0);

    const std::vector<bool> expect_sparse(n_parameters, false);
    const std::vector<size_t> limits{static_cast<size_t>(options->first_bucket_bytes),
                                     static_cast<size_t>(options->bucket_cap_bytes)};
    auto [buckets, bucket_limits] = c10d::compute_bucket_assignment_by_size(params, limits, expect_sparse);
    // Gradients appear roughly in the reverse of the order in which the parameters are used.
    std::reverse(buckets.begin(), buckets.end());
    std::unordered_map<size_t, std::string> param_names;
    for (size_t i = 0; i < n_parameters; ++i) param_names[i] = names[i];
    auto reducer = std::make_shared<c10d::Reducer>(
        params, buckets, group->group, expect_sparse, options->bucket_cap_bytes, options->find_unused_parameters,
        options->gradient_as_bucket_view, param_names, options->first_bucket_bytes,
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});
    *out = new ddp_reducer{std::move(reducer), options->find_unused_parameters};
  });
}

void ddp_reducer_free(ddp_reducer* reducer) noexcept {
  // ~Reducer may throw.
  guarded(nullptr, [&] { delete reducer; });
}

int32_t ddp_reducer_before_forward(ddp_reducer* reducer, ddp_error* error) noexcept {
  return guarded(error, [&] {
    if (!at::GradMode::is_enabled()) return;
    reducer->reducer->prepare_for_forward();
    reducer->reducer->rebuild_buckets();
  });
}

int32_t ddp_reducer_before_backward(ddp_reducer* reducer, ddp_tensor* output, ddp_error* error) noexcept {
  return guarded(error, [&] {
    if (!at::GradMode::is_enabled()) return;
    // The graph is searched for unused parameters only when asked for, as it costs a walk of it.
    if (reducer->find_unused_parameters)
      reducer->reducer->prepare_for_backward({*output});
    else
      reducer->reducer->prepare_for_backward({});
  });
}

int32_t ddp_backward(ddp_tensor* loss, ddp_error* error) noexcept {
  return guarded(error, [&] { loss->backward(); });
}
}
