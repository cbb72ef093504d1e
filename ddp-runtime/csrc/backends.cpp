// torch.backends and torch.use_deterministic_algorithms: settings of libtorch for the whole process.
#include "guard.hpp"

#include <ATen/Context.h>

#include <array>

namespace {
constexpr std::array<const char*, 3> kPrecisions{"highest", "high", "medium"};  // as in ddp_matmul_precision
}  // namespace

extern "C" {

int32_t ddp_set_backend_flag(ddp_backend_flag flag, bool value, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::Context& context = at::globalContext();
    switch (flag) {
      case DDP_CUDNN_ALLOW_TF32: return context.setAllowTF32CuDNN(value);
      case DDP_CUDNN_BENCHMARK: return context.setBenchmarkCuDNN(value);
      case DDP_CUDNN_DETERMINISTIC: return context.setDeterministicCuDNN(value);
    }
  });
}

int32_t ddp_get_backend_flag(ddp_backend_flag flag, bool* out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const at::Context& context = at::globalContext();
    switch (flag) {
      case DDP_CUDNN_ALLOW_TF32: *out = context.allowTF32CuDNN(); break;
      case DDP_CUDNN_BENCHMARK: *out = context.benchmarkCuDNN(); break;
      case DDP_CUDNN_DETERMINISTIC: *out = context.deterministicCuDNN(); break;
    }
  });
}

int32_t ddp_set_matmul_precision(ddp_matmul_precision precision, ddp_error* error) noexcept {
  return guarded(error, [&] { at::globalContext().setFloat32MatmulPrecision(kPrecisions.at(precision)); });
}

int32_t ddp_get_matmul_precision(ddp_matmul_precision* out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    switch (at::globalContext().float32MatmulPrecision()) {
      case at::Float32MatmulPrecision::HIGHEST: *out = DDP_PRECISION_HIGHEST; break;
      case at::Float32MatmulPrecision::HIGH: *out = DDP_PRECISION_HIGH; break;
      case at::Float32MatmulPrecision::MEDIUM: *out = DDP_PRECISION_MEDIUM; break;
    }
  });
}

int32_t ddp_set_deterministic(bool enabled, bool warn_only, ddp_error* error) noexcept {
  return guarded(error, [&] { at::globalContext().setDeterministicAlgorithms(enabled, warn_only); });
}

int32_t ddp_get_deterministic(bool* enabled, bool* warn_only, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const at::Context& context = at::globalContext();
    *enabled = context.deterministicAlgorithms();
    *warn_only = context.deterministicAlgorithmsWarnOnly();
  });
}
}
