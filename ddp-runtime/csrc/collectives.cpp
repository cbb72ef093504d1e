#include "group.hpp"
#include "guard.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/distributed/c10d/comm.hpp>

#include <algorithm>
#include <memory>

using c10d::ReduceOp;

struct ddp_work {
  std::vector<c10::intrusive_ptr<c10d::Work>> works;
  // What c10d does not keep itself, and Gloo's average: this tensor is divided by this number at the end.
  std::vector<at::Tensor> tensors;
  at::Tensor to_divide;
  int64_t divisor = 1;
};

namespace {
ReduceOp::RedOpType reduce_op(ddp_reduce_op op) {
  switch (op) {
    case DDP_SUM: return ReduceOp::SUM;
    case DDP_AVG: return ReduceOp::AVG;
    case DDP_PRODUCT: return ReduceOp::PRODUCT;
    case DDP_MIN: return ReduceOp::MIN;
    case DDP_MAX: return ReduceOp::MAX;
    case DDP_BAND: return ReduceOp::BAND;
    case DDP_BOR: return ReduceOp::BOR;
    case DDP_BXOR: return ReduceOp::BXOR;
  }
  TORCH_CHECK(false, "unknown reduce op ", static_cast<int>(op));
}

using Works = decltype(ddp_work::works);

// NCCL gives no work for a blocking operation: it runs on the current stream, so that nothing is left to wait for.
Works started(c10::intrusive_ptr<c10d::Work> work) {
  Works works;
  if (work) works.push_back(std::move(work));
  return works;
}

bool is_nccl(const ddp_group* group, const at::Tensor& tensor) {
  return tensor.is_cuda() && group->group->getBackendType() == c10d::ProcessGroup::BackendType::NCCL;
}

std::vector<at::Tensor> list(const ddp_group* group, ddp_tensor* const* tensors) {
  std::vector<at::Tensor> collected;
  if (tensors == nullptr) return collected;
  for (int i = 0; i < group->group->getSize(); ++i) collected.push_back(*tensors[i]);
  return collected;
}

std::vector<std::vector<at::Tensor>> list_of_lists(std::vector<at::Tensor> tensors) {
  std::vector<std::vector<at::Tensor>> lists;
  if (!tensors.empty()) lists.push_back(std::move(tensors));
  return lists;
}

// Gloo has no average: it is a sum, divided at the end on the ranks that have it.
struct Average {
  Average(const ddp_group* group, const at::Tensor& result, ddp_reduce_op op)
      : divide(op == DDP_AVG && !is_nccl(group, result)), sum(divide ? DDP_SUM : op), ranks(group->group->getSize()) {
    // NCCL would round it down.
    TORCH_CHECK(op != DDP_AVG || result.is_floating_point() || result.is_complex(),
                "can't average a tensor of integers");
  }
  void at_the_end(ddp_work& work, const at::Tensor& result) const {
    if (!divide) return;
    work.to_divide = result;
    work.divisor = ranks;
  }
  bool divide;
  ddp_reduce_op sum;
  int64_t ranks;
};
}  // namespace

extern "C" {

int32_t ddp_all_reduce(ddp_group* group, ddp_tensor* tensor, ddp_reduce_op op, bool is_async, ddp_work** out,
                       ddp_error* error) noexcept {
  return guarded(error, [&] {
    const Average average(group, *tensor, op);
    std::vector<at::Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.asyncOp = is_async;
    options.reduceOp = reduce_op(average.sum);
    auto work = std::make_unique<ddp_work>(ddp_work{started(group->group->allreduce(tensors, options)), tensors});
    average.at_the_end(*work, *tensor);
    *out = work.release();
  });
}

int32_t ddp_reduce(ddp_group* group, ddp_tensor* tensor, int32_t dst, ddp_reduce_op op, bool is_async, ddp_work** out,
                   ddp_error* error) noexcept {
  return guarded(error, [&] {
    const Average average(group, *tensor, op);
    std::vector<at::Tensor> tensors{*tensor};
    c10d::ReduceOptions options;
    options.asyncOp = is_async;
    options.reduceOp = reduce_op(average.sum);
    options.rootRank = dst;
    auto work = std::make_unique<ddp_work>(ddp_work{started(group->group->reduce(tensors, options)), tensors});
    if (group->group->getRank() == dst) average.at_the_end(*work, *tensor);
    *out = work.release();
  });
}

int32_t ddp_broadcast(ddp_group* group, ddp_tensor* tensor, int32_t src, bool is_async, ddp_work** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.asyncOp = is_async;
    options.rootRank = src;
    *out = new ddp_work{started(group->group->broadcast(tensors, options)), tensors};
  });
}

int32_t ddp_all_gather(ddp_group* group, ddp_tensor* const* outputs, ddp_tensor* input, bool is_async, ddp_work** out,
                       ddp_error* error) noexcept {
  return guarded(error, [&] {
    std::vector<at::Tensor> inputs{*input};
    auto gathered = list_of_lists(list(group, outputs));
    c10d::AllgatherOptions options;
    options.asyncOp = is_async;
    *out = new ddp_work{started(group->group->allgather(gathered, inputs, options)), inputs};
  });
}

int32_t ddp_all_gather_into(ddp_group* group, ddp_tensor* output, ddp_tensor* input, bool is_async, ddp_work** out,
                            ddp_error* error) noexcept {
  return guarded(error, [&] {
    c10d::AllgatherOptions options;
    options.asyncOp = is_async;
    *out = new ddp_work{started(group->group->all_gather_single(*output, *input, options)), {*output, *input}};
  });
}

int32_t ddp_gather(ddp_group* group, ddp_tensor* const* outputs, ddp_tensor* input, int32_t dst, bool is_async, ddp_work** out,
                   ddp_error* error) noexcept {
  return guarded(error, [&] {
    std::vector<at::Tensor> inputs{*input};
    auto gathered = list_of_lists(list(group, outputs));
    c10d::GatherOptions options;
    options.asyncOp = is_async;
    options.rootRank = dst;
    *out = new ddp_work{started(group->group->gather(gathered, inputs, options)), inputs};
  });
}

int32_t ddp_scatter(ddp_group* group, ddp_tensor* output, ddp_tensor* const* inputs, int32_t src, bool is_async, ddp_work** out,
                    ddp_error* error) noexcept {
  return guarded(error, [&] {
    std::vector<at::Tensor> outputs{*output};
    auto scattered = list_of_lists(list(group, inputs));
    c10d::ScatterOptions options;
    options.asyncOp = is_async;
    options.rootRank = src;
    *out = new ddp_work{started(group->group->scatter(outputs, scattered, options)), outputs};
  });
}

int32_t ddp_reduce_scatter(ddp_group* group, ddp_tensor* output, ddp_tensor* const* inputs, ddp_reduce_op op, bool is_async,
                           ddp_work** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const Average average(group, *output, op);
    std::vector<at::Tensor> outputs{*output};
    auto reduced = list_of_lists(list(group, inputs));
    c10d::ReduceScatterOptions options;
    options.asyncOp = is_async;
    options.reduceOp = reduce_op(average.sum);
    auto work = std::make_unique<ddp_work>(ddp_work{started(group->group->reduce_scatter(outputs, reduced, options)), outputs});
    average.at_the_end(*work, *output);
    *out = work.release();
  });
}

int32_t ddp_all_to_all(ddp_group* group, ddp_tensor* const* outputs, ddp_tensor* const* inputs, bool is_async, ddp_work** out,
                       ddp_error* error) noexcept {
  return guarded(error, [&] {
    auto received = list(group, outputs);
    auto sent = list(group, inputs);
    c10d::AllToAllOptions options;
    options.asyncOp = is_async;
    auto work = group->group->alltoall(received, sent, options);
    sent.insert(sent.end(), received.begin(), received.end());
    *out = new ddp_work{started(std::move(work)), std::move(sent)};
  });
}

int32_t ddp_send(ddp_group* group, ddp_tensor* tensor, int32_t dst, int32_t tag, ddp_work** out,
                 ddp_error* error) noexcept {
  return guarded(error, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    *out = new ddp_work{started(group->group->send(tensors, dst, tag)), tensors};
  });
}

int32_t ddp_recv(ddp_group* group, ddp_tensor* tensor, int32_t src, int32_t tag, ddp_work** out,
                 ddp_error* error) noexcept {
  return guarded(error, [&] {
    std::vector<at::Tensor> tensors{*tensor};
    *out = new ddp_work{started(group->group->recv(tensors, src, tag)), tensors};
  });
}

int32_t ddp_batch_send_recv(ddp_group* group, const ddp_p2p_op* ops, size_t n, ddp_work** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    // torch/distributed/distributed_c10d.py, batch_isend_irecv: NCCL runs all of them as one kernel.
    const bool coalesced = is_nccl(group, *ops[0].tensor);
    auto work = std::make_unique<ddp_work>();
    for (size_t i = 0; i < n; ++i) {
      TORCH_CHECK(ops[i].tensor->device() == ops[0].tensor->device(), "the tensors of a batch are on different devices");
      work->tensors.push_back(*ops[i].tensor);
    }
    group->group->exclusively([&] {
      if (coalesced) group->group->startCoalescing(at::kCUDA);
      try {
        for (size_t i = 0; i < n; ++i) {
          std::vector<at::Tensor> tensors{*ops[i].tensor};
          auto part = ops[i].is_send ? group->group->send(tensors, ops[i].peer, 0)
                                     : group->group->recv(tensors, ops[i].peer, 0);
          if (part) work->works.push_back(std::move(part));
        }
      } catch (...) {
        if (coalesced) group->group->endCoalescing(at::kCUDA);
        throw;
      }
      if (coalesced) work->works = started(group->group->endCoalescing(at::kCUDA));
    });
    *out = work.release();
  });
}

int32_t ddp_broadcast_coalesced(ddp_group* group, ddp_tensor* const* tensors, size_t n, int32_t src,
                                ddp_error* error) noexcept {
  return guarded(error, [&] {
    constexpr size_t kBucketBytes = 25 * 1024 * 1024;
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> list;
    for (size_t i = 0; i < n; ++i) list.push_back(tensors[i]->detach());
    if (!list.empty()) c10d::broadcast_coalesced(group->group, list, kBucketBytes, src);
  });
}

int32_t ddp_barrier(ddp_group* group, bool is_async, ddp_work** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    c10d::BarrierOptions options;
    options.asyncOp = is_async;
    *out = new ddp_work{started(group->group->barrier(options)), {}};
  });
}

int32_t ddp_monitored_barrier(ddp_group* group, int64_t timeout_ms, ddp_error* error) noexcept {
  return guarded(error, [&] {
    c10d::BarrierOptions options;
    if (timeout_ms > 0) options.timeout = std::chrono::milliseconds(timeout_ms);
    group->group->monitoredBarrier(options, /*wait_all_ranks=*/true);
  });
}

int32_t ddp_work_wait(ddp_work* work, int64_t timeout_ms, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto timeout = timeout_ms > 0 ? std::chrono::milliseconds(timeout_ms) : kNoTimeout;
    for (const auto& part : work->works) TORCH_CHECK(part->wait(timeout), "the operation was aborted");
    if (work->to_divide.defined()) {
      at::NoGradGuard no_grad;
      work->to_divide.div_(work->divisor);
      work->to_divide.reset();
    }
  });
}

bool ddp_work_is_completed(ddp_work* work) noexcept {
  bool completed = true;
  guarded(nullptr, [&] {
    completed = std::all_of(work->works.begin(), work->works.end(), [](const auto& part) { return part->isCompleted(); });
  });
  return completed;
}

void ddp_work_free(ddp_work* work) noexcept {
  guarded(nullptr, [&] { delete work; });
}
}
