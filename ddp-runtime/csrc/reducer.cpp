// torch/nn/parallel/distributed.py's DistributedDataParallel, its C++ half: the same calls in the same order.
#include "group.hpp"
#include "guard.hpp"
#include "hook.hpp"
#include "reducer.hpp"
#include "versions.hpp"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/comm.hpp>
#include <torch/csrc/distributed/c10d/logger.hpp>

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>
#include <utility>

namespace {
constexpr const char* kNotAveraged =
    "the gradients of this loss would not be averaged: run each loss through Ddp::forward, and its backward pass before "
    "the next forward pass";
}  // namespace

struct ddp_reducer {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
  std::shared_ptr<Reducer> reducer;
  std::shared_ptr<c10d::Logger> logger;
  // What all ranks hold alike: parameters (also frozen ones) and, with broadcast_buffers, buffers.
  std::vector<at::Tensor> states;
  std::vector<at::Tensor> buffers;
  // The parameters', shared with the hooks of losses, which may outlive this.
  std::shared_ptr<const std::vector<std::string>> names;
  bool find_unused_parameters;
  bool static_graph;
  bool broadcast_buffers;
  // require_forward_param_sync: buffers are broadcast again only after a step that was synchronized.
  bool forward_sync = true;
  // Inside of ddp_reducer_join_begin and _end.
  bool joining = false;
  bool divide_by_initial_world_size = true;

  bool will_sync_buffers() const { return broadcast_buffers && forward_sync && !buffers.empty(); }
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

// The tensors with version counters of their own: graphs that saved them stay valid when they are written to, as with
// 2.13's `_unsafe_preserve_version_counter`. (BatchNorm's running statistics are saved, but not used by backward.)
std::vector<at::Tensor> uncounted(const std::vector<at::Tensor>& tensors) {
  std::vector<at::Tensor> result;
  for (const auto& tensor : tensors) result.push_back(tensor.variable_data());
  return result;
}

c10::intrusive_ptr<c10d::Work> all_reduce(ddp_reducer* self, at::Tensor tensor, c10d::ReduceOp op = c10d::ReduceOp::SUM) {
  std::vector<at::Tensor> tensors{std::move(tensor)};
  c10d::AllreduceOptions options;
  options.reduceOp = op;
  return self->group->allreduce(tensors, options);
}

// A tensor of one number where the group can reduce it.
at::Tensor number(ddp_reducer* self, int64_t value) {
  return at::full({1}, value, self->states[0].options().dtype(at::kLong).requires_grad(false));
}

// _find_common_rank: the largest rank among those that offer themselves.
int64_t common_rank(ddp_reducer* self, bool offers) {
  at::Tensor rank = number(self, offers ? self->group->getRank() : -1);
  all_reduce(self, rank, c10d::ReduceOp::MAX)->wait();
  return rank.item<int64_t>();
}

// _sync_buffers. With uneven inputs rank 0 may have run out of them, and have stale buffers.
void sync_buffers(ddp_reducer* self, bool has_inputs) {
  at::NoGradGuard no_grad;
  const int64_t source = self->joining ? common_rank(self, has_inputs) : 0;
  c10d::broadcast_coalesced(self->group, self->buffers, kBroadcastBucketBytes, static_cast<int>(source));
}

// _DDPJoinHook.main_hook: what a rank without inputs does for a step of those that have some.
void shadow_step(ddp_reducer* self) {
  self->reducer->rebuild_buckets();
  if (self->will_sync_buffers()) sync_buffers(self, false);
  at::Tensor syncs = number(self, 0);
  all_reduce(self, syncs)->wait();
  self->forward_sync = syncs.item<int64_t>() != 0;
  if (!self->forward_sync) return;
  std::vector<c10::intrusive_ptr<c10::ivalue::Future>> pending;
  for (auto& bucket : self->reducer->get_grad_buckets(/*return_zero_tensors=*/true))
    pending.push_back(self->reducer->run_comm_hook(bucket));
  // The others' reducer starts this one after the last bucket, and before hooks finish what they have started.
  c10::intrusive_ptr<c10d::Work> used;
  if (self->find_unused_parameters) used = all_reduce(self, self->reducer->get_local_used_map_on_device());
  for (auto& future : pending) {
    future->waitAndThrow();
    ddp_finish_comm_hook(future->value());
  }
  if (used) used->wait();
  self->reducer->push_rebuilt_params_for_all_indices();
}

[[noreturn]] void throw_unused(const Reducer& reducer, const std::vector<std::string>& names) {
  std::string list, lines;
  for (const size_t i : reducer.missing()) {
    list += (list.empty() ? "" : ", ") + names[i];
    lines += (lines.empty() ? "" : "\n") + names[i];
  }
  throw UnusedParameters("the loss of this step does not depend on " + list +
                             ", so gradients were not averaged; if steps may skip parameters, set "
                             "`find_unused_parameters` in `DdpOptions`",
                         lines);
}

// Has the backward pass of `loss`, whoever calls it, end with an error unless the reducer averaged its gradients. Until then
// the graph keeps the reducer alive; afterwards a loss that is kept (in a list, say) must not.
void check_backward_of(const at::Tensor& loss, const ddp_reducer* self) {
  if (!loss.grad_fn()) return;
  auto pending = std::make_shared<std::shared_ptr<Reducer>>(self->reducer);
  loss.register_hook([pending, weak = std::weak_ptr<Reducer>(self->reducer), names = self->names](const at::TensorBase&) {
    const auto reducer = *pending ? std::exchange(*pending, nullptr) : weak.lock();
    TORCH_CHECK(reducer && reducer->is_waiting(), kNotAveraged);
    auto& engine = torch::autograd::Engine::get_default_engine();
    // The reducer's own callback comes after this one, and before one that this one adds.
    engine.queue_callback([reducer, names] {
      torch::autograd::Engine::get_default_engine().queue_callback([reducer, names] {
        if (reducer->is_partial()) throw_unused(*reducer, *names);
      });
    });
  });
}

// _DDPSink's backward: in the first step of a static graph, the reducer waits for all parameters before it sends any.
void delay_first_all_reduce(const at::Tensor& loss, const std::shared_ptr<Reducer>& reducer) {
  loss.register_hook([weak = std::weak_ptr<Reducer>(reducer)](const at::TensorBase&) {
    const auto reducer = weak.lock();
    if (!reducer || reducer->delay_enqueued.exchange(true)) return;
    torch::autograd::Engine::get_default_engine().queue_callback([reducer] { reducer->delay_all_reduce(); });
  });
}

// A loss that never went through a forward pass can't be refused: its gradients may be meant to be cleared (a generator's
// loss has some for the discriminator). The warning is printed once, on rank 0.
void tell_of_local_gradients(const std::shared_ptr<Reducer>& reducer, const std::string& name) {
  reducer->add_hook([weak = std::weak_ptr<Reducer>(reducer), name, warned = false]() mutable {
    const auto reducer = weak.lock();
    if (warned || !reducer || reducer->is_waiting() || reducer->accumulating) return;
    warned = true;
    std::fprintf(stderr,
                 "warning: a gradient of %s was computed without Ddp::forward and is not averaged over the ranks: they "
                 "diverge unless it is cleared before the optimizer's step\n",
                 name.c_str());
  });
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
}  // namespace

extern "C" {

int32_t ddp_reducer_new(ddp_group* group, const ddp_reducer_tensors* tensors, const ddp_reducer_options* options,
                        ddp_reducer** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto params = collect(tensors->parameters, tensors->n_parameters);
    const auto buffers = uncounted(collect(tensors->buffers, tensors->n_buffers));
    c10d::verify_params_across_processes(group->group, params, std::nullopt);

    auto states = detached(params);
    for (const auto& tensor : detached(collect(tensors->frozen, tensors->n_frozen))) states.push_back(tensor);
    // (Without broadcast_buffers, each rank keeps its own.)
    if (options->broadcast_buffers) states.insert(states.end(), buffers.begin(), buffers.end());
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
    const auto names = std::make_shared<const std::vector<std::string>>(tensors->names, tensors->names + params.size());
    std::unordered_map<size_t, std::string> names_by_index;
    for (size_t i = 0; i < params.size(); ++i) names_by_index[i] = (*names)[i];
    auto reducer = std::make_shared<Reducer>(
        params, buckets, group->group, expect_sparse, options->bucket_cap_bytes, options->find_unused_parameters,
        options->gradient_as_bucket_view, names_by_index, options->first_bucket_bytes,
        /*skip_all_reduce_unused_params=*/false, /*use_python_reducer=*/false, std::vector<int64_t>{}, options->batched_grad_copy);

    if (group->group->getRank() == 0 && group->group->getSize() > 1) tell_of_local_gradients(reducer, names->front());

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
    *out = new ddp_reducer{group->group, std::move(reducer), std::move(logger), std::move(states), buffers,
                           names, options->find_unused_parameters, options->static_graph, options->broadcast_buffers};
  });
}

void ddp_reducer_free(ddp_reducer* reducer) noexcept {
  // ~Reducer may throw.
  guarded(nullptr, [&] { delete reducer; });
}

int32_t ddp_reducer_before_forward(ddp_reducer* self, bool sync, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const bool grad = at::GradMode::is_enabled();
    TORCH_CHECK(!self->reducer->is_partial(),
                "the backward pass before this step failed or skipped parameters, so its gradients were not averaged");
    if (grad && sync) {
      self->logger->set_runtime_stats_and_log();
      self->reducer->prepare_for_forward();
    }
    // Join.notify_join_context: this rank still has inputs; the sum also is what gradients are divided by.
    if (self->joining) {
      at::Tensor present = number(self, 1);
      self->reducer->set_forward_pass_work_handle(all_reduce(self, present), self->divide_by_initial_world_size);
    }
    if (grad) self->reducer->rebuild_buckets();
    if (self->will_sync_buffers()) sync_buffers(self, true);
    // _check_global_requires_backward_grad_sync: ranks without inputs learn whether this step is synchronized.
    if (self->joining) all_reduce(self, number(self, sync ? 1 : 0));
  });
}

bool ddp_reducer_bucket_order(const ddp_reducer* self, size_t* order, size_t n) noexcept {
  const auto known = self->reducer->bucket_order();
  if (known.size() == n) std::copy(known.begin(), known.end(), order);
  return known.size() == n;
}

void ddp_reducer_set_bucket_order(ddp_reducer* self, const size_t* order, size_t n) noexcept {
  self->reducer->set_bucket_order({order, order + n});
}

int64_t ddp_reducer_find_lost(const ddp_reducer* self, size_t index) noexcept { return self->reducer->find_lost(index); }

int32_t ddp_reducer_register_comm_hook(ddp_reducer* self, const ddp_comm_hook_callbacks* callbacks,
                                       ddp_error* error) noexcept {
  return guarded(error, [&] { self->reducer->register_comm_hook(ddp_make_comm_hook(*callbacks)); });
}

int32_t ddp_reducer_join_begin(ddp_reducer* self, bool divide_by_initial_world_size, ddp_error* error) noexcept {
  return guarded(error, [&] {
    self->logger->set_uneven_input_join();
    self->joining = true;
    self->divide_by_initial_world_size = divide_by_initial_world_size;
  });
}

int32_t ddp_reducer_join_end(ddp_reducer* self, bool shadow, ddp_error* error) noexcept {
  return guarded(error, [&] {
    // torch/distributed/algorithms/join.py, Join.__exit__
    at::NoGradGuard no_grad;
    bool last = true;
    while (shadow) {
      at::Tensor present = number(self, 0);
      all_reduce(self, present)->wait();
      if (present.item<int64_t>() == 0) break;
      shadow_step(self);
      last = false;
    }
    self->joining = false;
    // Ordinary steps divide by the number of ranks again. (In Python, they divide by what the last step in the mode did, which
    // differs between ranks.)
    self->reducer->set_forward_pass_work_handle(nullptr, /*useStaticWorldSize=*/true);
    if (!shadow) return;
    // _sync_final_model
    const int64_t source = common_rank(self, last);
    c10d::broadcast_coalesced(self->group, self->states, kBroadcastBucketBytes, static_cast<int>(source));
  });
}

int32_t ddp_reducer_after_forward(ddp_reducer* self, bool sync, ddp_tensor* output, ddp_tensor** out,
                                  ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::Tensor result = *output;
    const bool search = self->find_unused_parameters && !self->static_graph;
    self->forward_sync = at::GradMode::is_enabled() && sync;
    if (at::GradMode::is_enabled()) self->reducer->accumulating = !sync;
    // The graph is searched for unused parameters only when asked for, as it costs a walk of it.
    if (self->forward_sync) {
      self->reducer->forget_ready();
      self->reducer->prepare_for_backward(search ? std::vector<at::Tensor>{result} : std::vector<at::Tensor>{});
    }
    const bool delays = self->static_graph && !self->reducer->delay_enqueued;
    if ((search || delays) && result.requires_grad()) {
      result = result.clone();  // as _DDPSink's forward
      if (delays) delay_first_all_reduce(result, self->reducer);
    }
    if (self->forward_sync) check_backward_of(result, self);
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

int32_t ddp_reducer_backward(ddp_reducer* self, bool sync, ddp_tensor* loss, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const bool averages = self->reducer->is_waiting();
    TORCH_CHECK(averages || !sync || self->reducer->accumulating, kNotAveraged);
    loss->backward();
    // No parameter at all: a loss with a graph of other tensors.
    if (averages && self->reducer->is_waiting()) throw_unused(*self->reducer, *self->names);
  });
}
}
