#include "group.hpp"

#include "guard.hpp"
#include "store.hpp"
#include "versions.hpp"

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/FlightRecorder.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <chrono>
#include <fstream>
#include <future>
#include <thread>

#include <pthread.h>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

using c10d::ProcessGroup;

namespace {
// Threads that are created while this lives run under SCHED_BATCH: they don't preempt others when they wake up.
//
// Gloo's event loop takes a connection's lock with try_lock and asks epoll again immediately if another thread has it. With
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

// For traces: c10d's flight recorder and its log tell groups apart by these.
void describe(c10d::Backend::Options& backend, const ddp_group_options& options) {
  backend.group_name = options.name;
  backend.group_desc = options.description;
  backend.global_ranks_in_group.assign(options.global_ranks, options.global_ranks + options.world_size);
}

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
  describe(*gloo_options, options);
  return c10::make_intrusive<ProcessGroupGloo>(store, options.rank, options.world_size, gloo_options);
}

#ifdef USE_C10D_NCCL
c10::intrusive_ptr<c10d::ProcessGroupNCCL> nccl_of(const ddp_group* group) {
  const auto backend = group->group->getBackend(ProcessGroup::BackendType::NCCL);
  return c10::static_intrusive_pointer_cast<c10d::ProcessGroupNCCL>(backend);
}
#endif

c10::intrusive_ptr<c10d::Backend> nccl_backend(const c10::intrusive_ptr<c10d::Store>& store, const ddp_group_options& options) {
#ifdef USE_C10D_NCCL
  auto nccl_options = c10d::ProcessGroupNCCL::Options::create(options.high_priority_stream);
  nccl_options->timeout = std::chrono::milliseconds(options.timeout_ms);
  describe(*nccl_options, options);
  if (options.split_from != nullptr) {
    nccl_options->split_from = nccl_of(options.split_from);
    nccl_options->split_color = options.split_color;
  }
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, options.rank, options.world_size, nccl_options);
#else
  TORCH_CHECK(false, "this build has no NCCL: its libtorch is a CPU one (set up another with `cargo ddp setup --cuda`)");
#endif
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
    TORCH_CHECK(at::hasCUDA(), "no CUDA device ", index, ": this build's libtorch is a CPU one");
    c10::impl::VirtualGuardImpl(at::kCUDA).setDevice(at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index)));
  });
}

int32_t ddp_group_new(const ddp_store* store, const ddp_group_options* options, ddp_group** out,
                      ddp_error* error) noexcept {
  return guarded(error, [&] {
    // As init_process_group does. Without a backend's name: Gloo for CPU tensors, NCCL for CUDA tensors. With "gloo": Gloo
    // for both.
    auto group = c10::make_intrusive<LockedGroup>(store->store, options->rank, options->world_size);
    const at::Device device(at::kCUDA, static_cast<at::DeviceIndex>(options->cuda_device));
    // `device_id` of init_process_group. (It also makes NCCL connect without blocking.)
    if (options->eager_init) group->setBoundDeviceId(device);
    if (options->backend == DDP_NCCL) {
      auto nccl_store = c10::make_intrusive<c10d::PrefixStore>("cuda", store->store);
      group->setBackend(at::kCUDA, ProcessGroup::BackendType::NCCL, nccl_backend(nccl_store, *options));
    }
    auto gloo_store = c10::make_intrusive<c10d::PrefixStore>("cpu", store->store);
    const auto gloo = gloo_backend(gloo_store, *options);
    group->setBackend(at::kCPU, ProcessGroup::BackendType::GLOO, gloo);
    if (options->backend == DDP_GLOO && at::hasCUDA())
      group->setBackend(at::kCUDA, ProcessGroup::BackendType::GLOO, gloo);
    group->setDefaultBackend(options->backend == DDP_NCCL ? ProcessGroup::BackendType::NCCL
                                                          : ProcessGroup::BackendType::GLOO);
    if (options->eager_init) group->getBackend(ProcessGroup::BackendType::NCCL)->eagerConnectSingleDevice(device);
    group->setGroupName(options->name);
    group->setGroupDesc(options->description);
    *out = new ddp_group{std::move(group)};
  });
}

int32_t ddp_group_split_none(const ddp_group* parent, ddp_error* error) noexcept {
  return guarded(error, [&] {
#ifdef USE_C10D_NCCL
    const auto nccl = nccl_of(parent);
    nccl->performNocolorSplit(nccl->getBoundDeviceId().value());
#else
    TORCH_CHECK(false, "this build has no NCCL");
#endif
  });
}

ddp_group_state ddp_group_get_state(const ddp_group* group, int64_t timeout_ms) noexcept {
  ddp_group_state state = DDP_GROUP_OK;
  guarded(nullptr, [&] {
    if (group->group->getBackendType() != ProcessGroup::BackendType::NCCL) return;
    // The first operation connects to the other ranks (ncclCommInitRank), which has no time limit.
    if (group->group->starting_for().count() > timeout_ms) state = DDP_GROUP_NOT_CONNECTED;
    switch (group->group->getBackend(ProcessGroup::BackendType::NCCL)->getError()) {
      case c10d::ErrorType::SUCCESS: break;
      case c10d::ErrorType::TIMEOUT: state = DDP_GROUP_TIMED_OUT; break;
      case c10d::ErrorType::COMM_ERROR:
      case c10d::ErrorType::REMOTE_ERROR: state = DDP_GROUP_BROKEN; break;
    }
  });
  return state;
}

int32_t ddp_group_shutdown(const ddp_group* group, int64_t timeout_ms, ddp_error* error) noexcept {
  return guarded(error, [&] {
    // Gloo has nothing to wait for: each of its operations ends before its `wait` does.
    if (group->group->getBackendType() != ProcessGroup::BackendType::NCCL) return;
    // `destroy_process_group`. It waits forever if another rank is gone: hence the thread.
    std::promise<void> promise;
    auto done = promise.get_future();
    // The thread's reference is freed here: a thread that frees the last one may do so while the process exits, when CUDA is
    // gone, and that aborts it. If time runs out, the group leaks.
    auto* const held = new c10::intrusive_ptr<LockedGroup>(group->group);
    std::thread([group = held->get(), promise = std::move(promise)]() mutable {
      try {
        group->shutdown();
        promise.set_value();
      } catch (...) {
        promise.set_exception(std::current_exception());
      }
    }).detach();
    TORCH_CHECK(done.wait_for(std::chrono::milliseconds(timeout_ms)) == std::future_status::ready,
                "timed out after ", timeout_ms, " ms");
    delete held;
    done.get();
  });
}

void ddp_group_abort(const ddp_group* group) noexcept {
  guarded(nullptr, [&] { group->group->abort(); });
}

void ddp_group_free(ddp_group* group) noexcept {
  guarded(nullptr, [&] { delete group; });
}

int32_t ddp_dump_collectives(int32_t rank, ddp_error* error) noexcept {
  return guarded(error, [&] {
    constexpr bool collectives = true, stacks = false, only_active = false;
#ifdef USE_C10D_NCCL
    const auto pickle = c10d::dump_nccl_trace(collectives, stacks, only_active);
    const auto json = c10d::dump_nccl_trace_json(collectives, only_active);
#else
    const auto pickle = c10d::dump_fr_trace(collectives, stacks, only_active);
    const auto json = c10d::dump_fr_trace_json(collectives, only_active);
#endif
    auto& writer = c10d::DebugInfoWriter::getWriter(rank);
    writer.write(pickle);
    const auto path = writer.getWriterTarget() + ".json";
    std::ofstream file(path);
    TORCH_CHECK(file << json << std::flush, "can't write ", path);
  });
}
}
