#include "group.hpp"

#include "guard.hpp"
#include "store.hpp"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <chrono>
#include <future>
#include <thread>

#include <pthread.h>
#ifdef USE_C10D_NCCL
#include <c10/cuda/CUDAFunctions.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

using c10d::ProcessGroup;

namespace {
// Threads that are created while this lives run under SCHED_BATCH: they don't preempt others when they wake up.
//
// Gloo's event loop takes a connection's lock with try_lock and asks epoll again at once when another thread has it. With
// no core to spare, it then takes the core from the very thread that holds the lock, hundreds of times per all-reduce.
// (Measured on 2 cores with 2 ranks, Linear(2,1), 1600 steps from command to exit: 3.3 to 4.0 s without this, 1.6 s with it.)
class NoWakeupPreemption {
 public:
  NoWakeupPreemption() {
#ifdef SCHED_BATCH
    if (pthread_getschedparam(pthread_self(), &policy_, &param_) == 0 && policy_ == SCHED_OTHER)
      changed_ = pthread_setschedparam(pthread_self(), SCHED_BATCH, &param_) == 0;
#endif
  }
  ~NoWakeupPreemption() {
    if (changed_) pthread_setschedparam(pthread_self(), policy_, &param_);
  }
  NoWakeupPreemption(const NoWakeupPreemption&) = delete;
  NoWakeupPreemption& operator=(const NoWakeupPreemption&) = delete;

 private:
  int policy_ = 0;
  sched_param param_{};
  bool changed_ = false;
};

c10::intrusive_ptr<c10d::Backend> gloo_backend(const c10::intrusive_ptr<c10d::Store>& store, const ddp_group_options& options) {
  using c10d::ProcessGroupGloo;
  const NoWakeupPreemption for_gloos_threads;
  const auto timeout = std::chrono::milliseconds(options.timeout_ms);
  c10::intrusive_ptr<ProcessGroupGloo::Options> gloo_options;
  if (options.gloo_host != nullptr) {
    gloo_options = ProcessGroupGloo::Options::create(timeout);
    gloo_options->devices.push_back(ProcessGroupGloo::createDeviceForHostname(options.gloo_host));
  } else {
    gloo_options = ProcessGroupGloo::Options::create_default(timeout);
  }
  return c10::make_intrusive<ProcessGroupGloo>(store, options.rank, options.world_size, gloo_options);
}

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store, const ddp_group_options& options) {
#ifdef USE_C10D_NCCL
  auto nccl_options = c10d::ProcessGroupNCCL::Options::create();
  nccl_options->timeout = std::chrono::milliseconds(options.timeout_ms);
  auto backend =
      c10::make_intrusive<c10d::ProcessGroupNCCL>(store, options.rank, options.world_size, nccl_options);
  if (options.cuda_device >= 0) backend->setBoundDeviceId(at::Device(at::kCUDA, options.cuda_device));
  return backend;
#else
  TORCH_CHECK(false, "this build has no NCCL: its libtorch is a CPU one (set up another with `cargo ddp setup --cuda`)");
#endif
}

// `destroy_process_group`: NCCL's destructor aborts operations in flight, which gives wrong results here and on the other
// ranks. A shutdown waits for them, and for ever if another rank is gone: hence the limit.
void shut_down(const c10::intrusive_ptr<ProcessGroup>& group, std::chrono::milliseconds limit) {
  std::promise<void> promise;
  auto done = promise.get_future();
  std::thread([group, promise = std::move(promise)]() mutable {
    try {
      group->shutdown();
    } catch (const std::exception& e) {
      LOG(WARNING) << "shutting a process group down: " << e.what();
    }
    promise.set_value();
  }).detach();
  if (done.wait_for(limit) == std::future_status::timeout) group->abort();
}
}  // namespace

extern "C" {

bool ddp_has_nccl() noexcept {
#ifdef USE_C10D_NCCL
  return true;
#else
  return false;
#endif
}

int32_t ddp_set_cuda_device(int32_t index, ddp_error* error) noexcept {
  return guarded(error, [&] {
#ifdef USE_C10D_NCCL
    c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
#else
    TORCH_CHECK(false, "no CUDA device ", index, ": this build's libtorch is a CPU one");
#endif
  });
}

int32_t ddp_group_new(const ddp_store* store, const ddp_group_options* options, ddp_group** out,
                      ddp_error* error) noexcept {
  return guarded(error, [&] {
    // As init_process_group does without a backend: Gloo for CPU tensors always, NCCL beside it for CUDA tensors.
    auto group = c10::make_intrusive<ProcessGroup>(store->store, options->rank, options->world_size);
    if (options->backend == DDP_NCCL) {
      auto nccl_store = c10::make_intrusive<c10d::PrefixStore>("cuda", store->store);
      group->setBackend(at::kCUDA, ProcessGroup::BackendType::NCCL, nccl_backend(nccl_store, *options));
    }
    auto gloo_store = c10::make_intrusive<c10d::PrefixStore>("cpu", store->store);
    group->setBackend(at::kCPU, ProcessGroup::BackendType::GLOO, gloo_backend(gloo_store, *options));
    group->setDefaultBackend(options->backend == DDP_NCCL ? ProcessGroup::BackendType::NCCL
                                                          : ProcessGroup::BackendType::GLOO);
    *out = new ddp_group{std::move(group)};
  });
}

bool ddp_group_is_overdue(const ddp_group* group) noexcept {
  bool overdue = false;
  guarded(nullptr, [&] {
    if (group->group->getBackendType() == ProcessGroup::BackendType::NCCL)
      overdue = group->group->getBackend(at::kCUDA)->getError() == c10d::ErrorType::TIMEOUT;
  });
  return overdue;
}

void ddp_group_free(ddp_group* group, int64_t shutdown_ms) noexcept {
  // Gloo has nothing to flush: each of its operations ends before its `wait` does.
  guarded(nullptr, [&] {
    if (shutdown_ms > 0 && group->group->getBackendType() == ProcessGroup::BackendType::NCCL)
      shut_down(group->group, std::chrono::milliseconds(shutdown_ms));
  });
  guarded(nullptr, [&] { delete group; });
}
}
