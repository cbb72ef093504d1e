#include "guard.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randperm.h>

#include <algorithm>
#include <mutex>

namespace {
at::Generator default_generator(int32_t cuda_device) {
  const auto device = cuda_device < 0 ? at::Device(at::kCPU) : at::Device(at::kCUDA, static_cast<at::DeviceIndex>(cuda_device));
  return at::globalContext().defaultGenerator(device);
}
}  // namespace

extern "C" {

int32_t ddp_rng_state(int32_t cuda_device, ddp_tensor** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::Generator generator = default_generator(cuda_device);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    *out = new at::Tensor(generator.get_state());
  });
}

int32_t ddp_set_rng_state(int32_t cuda_device, const ddp_tensor* state, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::Generator generator = default_generator(cuda_device);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

size_t ddp_tensor_id(const ddp_tensor* tensor) noexcept {
  return reinterpret_cast<size_t>(tensor->unsafeGetTensorImpl());
}

ddp_form ddp_tensor_form(const ddp_tensor* tensor) noexcept {
  if (!tensor->defined()) return DDP_UNDEFINED;
  if (tensor->layout() != at::kStrided) return DDP_SPARSE;
  if (tensor->is_quantized()) return DDP_QUANTIZED;
  if (tensor->is_meta()) return DDP_META;
  if (!tensor->is_leaf()) return DDP_COMPUTED;
  return DDP_ORDINARY;
}

int64_t ddp_find_requires_grad(ddp_tensor* const* tensors, size_t n, bool requires_grad) noexcept {
  for (size_t i = 0; i < n; ++i)
    if (tensors[i]->requires_grad() == requires_grad) return static_cast<int64_t>(i);
  return -1;
}

int32_t ddp_pin_memory(const ddp_tensor* tensor, ddp_tensor** out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = new at::Tensor(tensor->pin_memory()); });
}

int32_t ddp_randperm(int64_t n, uint64_t seed, int64_t* out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const at::Tensor permutation = at::randperm(n, at::detail::createCPUGenerator(seed), at::kLong);
    std::copy_n(permutation.const_data_ptr<int64_t>(), n, out);
  });
}
}
