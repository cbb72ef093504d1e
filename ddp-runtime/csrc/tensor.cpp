#include "guard.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/randperm.h>

#include <algorithm>

extern "C" {

size_t ddp_tensor_id(const ddp_tensor* tensor) noexcept {
  return reinterpret_cast<size_t>(tensor->unsafeGetTensorImpl());
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
