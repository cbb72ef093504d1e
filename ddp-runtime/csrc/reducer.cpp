// torch/nn/parallel/distributed.py's DistributedDataParallel, its C++ half: the same calls in the same order.
#include "group.hpp"
#include "guard.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <limits>
#include <string>

struct ddp_reducer {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::shared_ptr<c10d::Reducer> reducer;
  std::shared_ptr<c10d::Logger> logger;
  std::vector<at::Tensor> buffers;
  bool find_unused_parameters;
  bool static_graph;
  bool broadcast_buffers;
  // require_forward_param_sync: buffers are broadcast again only after a step that was synchronised.
  bool forward_sync = true;
  bool delay_enqueued = false;
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

std::vector<at::Tensor> detached(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> result;
  for (const auto& tensor : tensors) result.push_back(tensor.detach());
  return result;
}

// torch/distributed/algorithms/ddp_comm_hooks/default_hooks.py, bf16_compress_hook: gradients travel as bfloat16.
class BF16CompressHook : public c10d::CppCommHookInterface<c10::intrusive_ptr<c10d::ProcessGroup>> {
 public:
  using CppCommHookInterface::CppCommHookInterface;

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    auto compressed = bucket.getBufferRef().to(at::kBFloat16).div_(state_->getSize());
    std::vector<at::Tensor> tensors{compressed};
    auto future = state_->allreduce(tensors)->getFuture();
    auto decompress = [buffer = bucket.getBufferRef()](c10::ivalue::Future& done) {
      auto result = c10d::detail::parseCppCommHookResult(done.value());
      buffer.copy_(result);
      return c10::IValue(buffer);
    };
    return future->then(decompress, future->elementType());
  }
};

// _DDPSink: the last node of the forward graph. Its backward, the first to run, has the reducer wait for all parameters
// in the first step of a static graph.
struct Sink : public torch::autograd::Function<Sink> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& output, int64_t reducer) {
    context->saved_data["reducer"] = reducer;
    return output.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list grads) {
    auto* self = reinterpret_cast<ddp_reducer*>(context->saved_data["reducer"].toInt());
    if (self->static_graph && !self->delay_enqueued) {
      torch::autograd::Engine::get_default_engine().queue_callback([reducer = self->reducer] { reducer->delay_all_reduce(); });
      self->delay_enqueued = true;
    }
    return {grads[0], at::Tensor()};
  }
};
}  // namespace

extern "C" {

int32_t ddp_reducer_new(ddp_group* group, const ddp_reducer_tensors* tensors, const ddp_reducer_options* options,
                        ddp_reducer** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto params = collect(tensors->parameters, tensors->n_parameters);
    const auto buffers = detached(collect(tensors->buffers, tensors->n_buffers));
    c10d::verify_params_across_processes(group->group, params, std::nullopt);

    auto states = detached(params);
    for (const auto& tensor : detached(collect(tensors->frozen, tensors->n_frozen))) states.push_back(tensor);
    states.insert(states.end(), buffers.begin(), buffers.end());
    c10d::broadcast_coalesced(group->group, states, kBroadcastBucketBytes, 0);

    // Where the buckets are rebuilt after the first step, in the order in which gradients came, that step has one bucket.
    const bool rebuilt = options->static_graph || !options->find_unused_parameters;
    const std::vector<size_t> limits =
        rebuilt ? std::vector<size_t>{static_cast<size_t>(std::numeric_limits<int64_t>::max())}
                : std::vector<size_t>{static_cast<size_t>(options->first_bucket_bytes),
                                      static_cast<size_t>(options->bucket_cap_bytes)};
    const std::vector<bool> expect_sparse(params.size(), false);
    auto [buckets, bucket_limits] = c10d::compute_bucket_assignment_by_size(params, limits, expect_sparse);
    // Gradients appear roughly in the reverse of the order in which the parameters are used.
    std::reverse(buckets.begin(), buckets.end());
    std::unordered_map<size_t, std::string> names;
    for (size_t i = 0; i < params.size(); ++i) names[i] = tensors->names[i];
    auto reducer = std::make_shared<c10d::Reducer>(
        params, buckets, group->group, expect_sparse, options->bucket_cap_bytes, options->find_unused_parameters,
        options->gradient_as_bucket_view, names, options->first_bucket_bytes,
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{});

    auto logger = std::make_shared<c10d::Logger>(reducer);
    reducer->set_logger(logger);
    const auto device = params[0].device();
    const std::vector<int> device_ids = device.is_cuda() ? std::vector<int>{device.index()} : std::vector<int>{};
    logger->set_construction_data_and_log("Module", device_ids, device.is_cuda() ? device.index() : -1,
                                          options->broadcast_buffers, /*has_sync_bn=*/false, options->static_graph);
    if (options->static_graph) {
      reducer->set_static_graph();
      logger->set_static_graph();
    }
    if (options->comm_hook == DDP_FP16_COMPRESS)
      reducer->register_builtin_comm_hook(c10d::BuiltinCommHookType::FP16_COMPRESS);
    if (options->comm_hook == DDP_BF16_COMPRESS)
      reducer->register_comm_hook(std::make_unique<BF16CompressHook>(group->group));
    *out = new ddp_reducer{group->group, std::move(reducer), std::move(logger), buffers,
                           options->find_unused_parameters, options->static_graph, options->broadcast_buffers};
  });
}

void ddp_reducer_free(ddp_reducer* reducer) noexcept {
  // ~Reducer may throw.
  guarded(nullptr, [&] { delete reducer; });
}

int32_t ddp_reducer_before_forward(ddp_reducer* self, bool sync, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const bool grad = at::GradMode::is_enabled();
    if (grad && sync) {
      self->logger->set_runtime_stats_and_log();
      self->reducer->prepare_for_forward();
    }
    if (grad) self->reducer->rebuild_buckets();
    if (self->broadcast_buffers && self->forward_sync && !self->buffers.empty())
      c10d::broadcast_coalesced(self->group, self->buffers, kBroadcastBucketBytes, 0);
  });
}

int32_t ddp_reducer_after_forward(ddp_reducer* self, bool sync, ddp_tensor* output, ddp_tensor** out,
                                  ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::Tensor result = *output;
    const bool search = self->find_unused_parameters && !self->static_graph;
    self->forward_sync = at::GradMode::is_enabled() && sync;
    // The graph is searched for unused parameters only when asked for, as it costs a walk of it.
    if (self->forward_sync) self->reducer->prepare_for_backward(search ? std::vector<at::Tensor>{result} : std::vector<at::Tensor>{});
    if ((search || (self->static_graph && !self->delay_enqueued)) && result.requires_grad())
      result = Sink::apply(result, reinterpret_cast<int64_t>(self));
    *out = new at::Tensor(std::move(result));
  });
}

int32_t ddp_reducer_logging_data(ddp_reducer* self, void (*take)(void* context, const char* name, const char* value),
                                 void* context, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto data = self->logger->get_ddp_logging_data();
    for (const auto& [name, value] : data.strs_map) take(context, name.c_str(), value.c_str());
    for (const auto& [name, value] : data.ints_map) take(context, name.c_str(), std::to_string(value).c_str());
  });
}

int32_t ddp_backward(ddp_tensor* loss, ddp_error* error) noexcept {
  return guarded(error, [&] { loss->backward(); });
}
}
