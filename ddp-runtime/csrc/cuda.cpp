// torch.cuda's streams, events and memory, through c10's interface for all kinds of devices: no CUDA headers are needed, and
// a libtorch without CUDA gives an error.
#include "guard.hpp"

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#ifdef USE_C10D_NCCL
#include <c10/cuda/CUDAFunctions.h>
#endif

struct ddp_event {
  c10::Event event;
};

namespace {
using c10::impl::VirtualGuardImpl;

// torch.cuda._lazy_init.
VirtualGuardImpl initialized() {
  TORCH_CHECK(c10::impl::hasDeviceGuardImpl(at::kCUDA),
              "this build's libtorch has no CUDA (set up another with `cargo ddp setup --cuda`)");
  const VirtualGuardImpl impl(at::kCUDA);
  TORCH_CHECK(impl.deviceCount() > 0, "no GPU found: check `nvidia-smi` and CUDA_VISIBLE_DEVICES");
  at::globalContext().lazyInitDevice(at::kCUDA);
  return impl;
}

at::Device cuda_device(int32_t index) {
  const int32_t count = initialized().deviceCount();
  TORCH_CHECK(index >= 0 && index < count, "GPU ", index, " not found (available: 0 to ", count - 1, ")");
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

c10::Stream stream_of(const ddp_stream& stream) {
  return c10::Stream::unpack3(stream.id, static_cast<at::DeviceIndex>(stream.device), at::kCUDA);
}

ddp_stream packed(const c10::Stream& stream) { return {stream.id(), stream.device_index()}; }

c10::DeviceAllocator* allocator() {
  initialized();
  return c10::getDeviceAllocator(at::kCUDA);
}
}  // namespace

extern "C" {

int32_t ddp_cuda_synchronize(int32_t device, ddp_error* error) noexcept {
  return guarded(error, [&] { initialized().synchronizeDevice(cuda_device(device).index()); });
}

int32_t ddp_cuda_memory(int32_t device, ddp_cuda_memory_stats* out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto stats = allocator()->getDeviceStats(cuda_device(device).index());
    constexpr auto all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto &allocated = stats.allocated_bytes[all], &reserved = stats.reserved_bytes[all];
    const auto bytes = [](int64_t value) { return static_cast<uint64_t>(value); };
    *out = {bytes(allocated.current), bytes(allocated.peak), bytes(reserved.current), bytes(reserved.peak)};
  });
}

int32_t ddp_cuda_reset_peak_memory(int32_t device, ddp_error* error) noexcept {
  return guarded(error, [&] { allocator()->resetPeakStats(cuda_device(device).index()); });
}

int32_t ddp_cuda_set_sync_debug_mode(ddp_sync_debug_mode mode, ddp_error* error) noexcept {
  return guarded(error, [&] {
    initialized();
#ifdef USE_C10D_NCCL
    c10::cuda::warning_state().set_sync_debug_mode(static_cast<c10::cuda::SyncDebugMode>(mode));
#else
    TORCH_CHECK(false, "this program was built without CUDA's headers: build it without DDP_WITHOUT_NCCL");
#endif
  });
}

int32_t ddp_cuda_empty_cache(ddp_error* error) noexcept {
  return guarded(error, [&] { allocator()->emptyCache(); });
}

int32_t ddp_stream_new(int32_t device, bool high_priority, ddp_stream* out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = packed(initialized().getStreamFromGlobalPool(cuda_device(device), high_priority)); });
}

int32_t ddp_stream_current(int32_t device, ddp_stream* out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = packed(initialized().getStream(cuda_device(device))); });
}

// torch.cuda.StreamContext: the stream's device becomes the current one, too.
int32_t ddp_stream_enter(const ddp_stream* stream, ddp_stream_scope* out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const VirtualGuardImpl impl = initialized();
    const auto device = impl.exchangeDevice(cuda_device(stream->device));
    *out = {packed(impl.exchangeStream(stream_of(*stream))), device.index()};
  });
}

int32_t ddp_stream_exit(const ddp_stream_scope* scope, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const VirtualGuardImpl impl = initialized();
    impl.exchangeStream(stream_of(scope->previous));
    impl.setDevice({at::kCUDA, static_cast<at::DeviceIndex>(scope->device)});
  });
}

int32_t ddp_stream_query(const ddp_stream* stream, bool* out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = initialized().queryStream(stream_of(*stream)); });
}

int32_t ddp_stream_synchronize(const ddp_stream* stream, ddp_error* error) noexcept {
  return guarded(error, [&] { initialized().synchronizeStream(stream_of(*stream)); });
}

int32_t ddp_stream_record(const ddp_stream* stream, ddp_tensor* tensor, ddp_error* error) noexcept {
  return guarded(error, [&] {
    initialized();
    tensor->record_stream(stream_of(*stream));
  });
}

int32_t ddp_event_new(bool timing, ddp_event** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    initialized();
    *out = new ddp_event{c10::Event(at::kCUDA, timing ? c10::EventFlag::BACKEND_DEFAULT : c10::EventFlag::PYTORCH_DEFAULT)};
  });
}

void ddp_event_free(ddp_event* event) noexcept {
  guarded(nullptr, [&] { delete event; });
}

int32_t ddp_event_record(ddp_event* event, const ddp_stream* stream, ddp_error* error) noexcept {
  return guarded(error, [&] { event->event.record(stream_of(*stream)); });
}

int32_t ddp_event_block(const ddp_event* event, const ddp_stream* stream, ddp_error* error) noexcept {
  return guarded(error, [&] { event->event.block(stream_of(*stream)); });
}

int32_t ddp_event_query(const ddp_event* event, bool* out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = event->event.query(); });
}

int32_t ddp_event_synchronize(const ddp_event* event, ddp_error* error) noexcept {
  return guarded(error, [&] { event->event.synchronize(); });
}

int32_t ddp_event_elapsed_ms(const ddp_event* start, const ddp_event* end, double* out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = start->event.elapsedTime(end->event); });
}
}
