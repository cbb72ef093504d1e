#pragma once
#include "ddp.h"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <atomic>
#include <chrono>
#include <mutex>

// c10d's process group, with a lock around the start of each operation: the training loop, autograd's threads (the
// reducer) and the program's own threads may start some at the same time, and ProcessGroupNCCL's maps and counters have no
// lock. Waiting for an operation needs none. (PyTorch's operations start under Python's global lock.)
class LockedGroup : public c10d::ProcessGroup {
 public:
  using c10d::ProcessGroup::ProcessGroup;
  using Tensors = std::vector<at::Tensor>;
  using Lists = std::vector<Tensors>;
  using Work = c10::intrusive_ptr<c10d::Work>;

  Work broadcast(Tensors& tensors, const c10d::BroadcastOptions& options = {}) override {
    return start([&] { return ProcessGroup::broadcast(tensors, options); });
  }
  Work allreduce(Tensors& tensors, const c10d::AllreduceOptions& options = {}) override {
    return start([&] { return ProcessGroup::allreduce(tensors, options); });
  }
  Work reduce(Tensors& tensors, const c10d::ReduceOptions& options = {}) override {
    return start([&] { return ProcessGroup::reduce(tensors, options); });
  }
  Work allgather(Lists& outputs, Tensors& inputs, const c10d::AllgatherOptions& options = {}) override {
    return start([&] { return ProcessGroup::allgather(outputs, inputs, options); });
  }
  Work all_gather_single(at::Tensor& output, at::Tensor& input, const c10d::AllgatherOptions& options = {}) override {
    return start([&] { return ProcessGroup::all_gather_single(output, input, options); });
  }
  Work gather(Lists& outputs, Tensors& inputs, const c10d::GatherOptions& options = {}) override {
    return start([&] { return ProcessGroup::gather(outputs, inputs, options); });
  }
  Work scatter(Tensors& outputs, Lists& inputs, const c10d::ScatterOptions& options = {}) override {
    return start([&] { return ProcessGroup::scatter(outputs, inputs, options); });
  }
  Work reduce_scatter(Tensors& outputs, Lists& inputs, const c10d::ReduceScatterOptions& options = {}) override {
    return start([&] { return ProcessGroup::reduce_scatter(outputs, inputs, options); });
  }
  Work alltoall(Tensors& outputs, Tensors& inputs, const c10d::AllToAllOptions& options = {}) override {
    return start([&] { return ProcessGroup::alltoall(outputs, inputs, options); });
  }
  Work send(Tensors& tensors, int dst, int tag) override {
    return start([&] { return ProcessGroup::send(tensors, dst, tag); });
  }
  Work recv(Tensors& tensors, int src, int tag) override {
    return start([&] { return ProcessGroup::recv(tensors, src, tag); });
  }
  Work barrier(const c10d::BarrierOptions& options = {}) override {
    return start([&] { return ProcessGroup::barrier(options); });
  }

  // Runs `operations`, which start several as one, before those of other threads.
  template <class F>
  auto exclusively(F&& operations) {
    const std::lock_guard<std::recursive_mutex> lock(mutex_);
    const Starting starting(*this);
    return operations();
  }

  // For how long the operation that is being started has been, or zero.
  std::chrono::milliseconds starting_for() const {
    const int64_t since = starting_since_;
    return std::chrono::milliseconds(since == 0 ? 0 : now() - since);
  }

 private:
  static int64_t now() {
    const auto time = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
  }

  // Marks the start of the outermost operation.
  struct Starting {
    explicit Starting(LockedGroup& group) : group(group) {
      if (group.depth_++ == 0) group.starting_since_ = now();
    }
    ~Starting() {
      if (--group.depth_ == 0) group.starting_since_ = 0;
    }
    LockedGroup& group;
  };

  template <class F>
  Work start(F&& operation) {
    return exclusively(operation);
  }

  std::recursive_mutex mutex_;
  int depth_ = 0;
  std::atomic<int64_t> starting_since_{0};
};

struct ddp_group {
  c10::intrusive_ptr<LockedGroup> group;
};
