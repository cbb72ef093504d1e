// Copies between this computer and a GPU on a stream next to the one that computes. c10's streams and events of any device:
// no CUDA headers.
#include "guard.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

struct ddp_side_stream {
  c10::impl::VirtualGuardImpl guard;
  c10::Device device;
  c10::Stream stream;
  // What the computing stream had been given when a copy was asked for.
  c10::Event before;

  explicit ddp_side_stream(c10::Device on)
      : guard(on.type()), device(on), stream(guard.getStreamFromGlobalPool(on)), before(on.type()) {}

  c10::Stream computing() const { return guard.getStream(device); }
};

struct ddp_copies {
  c10::Event done;
  // The stream that was computing when they were asked for.
  c10::Stream computing;
};

namespace {
// Copies after all work that the computing stream has been given so far.
void copy(ddp_side_stream* self, const at::Tensor& to, const at::Tensor& from) {
  self->before.record(self->computing());
  self->before.block(self->stream);
  const c10::StreamGuard on_side(self->stream);
  to.copy_(from, /*non_blocking=*/true);
}
}  // namespace

extern "C" {

int32_t ddp_side_stream_new(int32_t cuda_device, ddp_side_stream** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    *out = new ddp_side_stream(c10::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda_device)));
  });
}

void ddp_side_stream_free(ddp_side_stream* self) noexcept {
  guarded(nullptr, [&] { delete self; });
}

int32_t ddp_side_stream_to_device(ddp_side_stream* self, const ddp_tensor* from, ddp_tensor** out,
                                  ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    // The memory belongs to the computing stream, which waits for the copies before the tensor is used or freed
    // (ddp_copies_arrive), so later work may reuse it right away. With memory of this stream and `record_stream`, a host that is
    // ahead of the GPU would allocate a batch for each step that it is ahead.
    at::Tensor to = at::empty_like(*from, from->options().device(self->device).pinned_memory(false));
    copy(self, to, *from);
    *out = new at::Tensor(std::move(to));
  });
}

int32_t ddp_side_stream_to_host(ddp_side_stream* self, const ddp_tensor* from, ddp_tensor* to, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    copy(self, *to, *from);
  });
}

int32_t ddp_side_stream_end(ddp_side_stream* self, ddp_copies** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    c10::Event done(self->device.type());
    done.record(self->stream);
    *out = new ddp_copies{std::move(done), self->computing()};
  });
}

int32_t ddp_copies_arrive(const ddp_copies* self, ddp_error* error) noexcept {
  return guarded(error, [&] { self->done.block(self->computing); });
}

bool ddp_copies_are_done(const ddp_copies* self) noexcept {
  bool done = false;
  guarded(nullptr, [&] { done = self->done.query(); });
  return done;
}

int32_t ddp_copies_wait(const ddp_copies* self, ddp_error* error) noexcept {
  return guarded(error, [&] { self->done.synchronize(); });
}

void ddp_copies_free(ddp_copies* self) noexcept {
  guarded(nullptr, [&] { delete self; });
}

int32_t ddp_pinned_bytes(int64_t bytes, ddp_tensor** out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = new at::Tensor(at::empty({bytes}, at::device(at::kCPU).dtype(at::kByte).pinned_memory(true))); });
}
}
