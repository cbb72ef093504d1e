// torch/amp/autocast_mode.py and grad_scaler.py, their calls into libtorch.
#include "grouping.hpp"
#include "guard.hpp"

#include <ATen/autocast_mode.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/max.h>

#include <vector>

namespace {
at::DeviceType device_type(ddp_device_type device) { return device == DDP_CUDA ? at::kCUDA : at::kCPU; }

void set(const ddp_autocast_state& state) {
  at::autocast::set_autocast_enabled(device_type(state.device), state.enabled);
  at::autocast::set_autocast_dtype(device_type(state.device), static_cast<at::ScalarType>(state.dtype));
  at::autocast::set_autocast_cache_enabled(state.cache_enabled);
}
}  // namespace

extern "C" {

int32_t ddp_autocast_enter(const ddp_autocast_state* state, ddp_autocast_state* previous, ddp_error* error) noexcept {
  return guarded(error, [&] {
    const auto type = device_type(state->device);
    *previous = {state->device, static_cast<int32_t>(at::autocast::get_autocast_dtype(type)),
                 at::autocast::is_autocast_enabled(type), at::autocast::is_autocast_cache_enabled()};
    set(*state);
    at::autocast::increment_nesting();
  });
}

int32_t ddp_autocast_exit(const ddp_autocast_state* previous, ddp_error* error) noexcept {
  return guarded(error, [&] {
    // The outermost end drops the parameters' copies: the next step has other values.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    set(*previous);
  });
}

int32_t ddp_unscale(ddp_tensor* const* parameters, size_t n, ddp_tensor* found_inf, const ddp_tensor* inverse_scale,
                    bool allow_half, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    Groups<std::vector<at::Tensor>> gradients;
    for (size_t i = 0; i < n; ++i) {
      const at::Tensor& gradient = parameters[i]->grad();
      if (!gradient.defined()) continue;
      TORCH_CHECK(allow_half || gradient.scalar_type() != at::kHalf,
                  "gradients of Half parameters can't be unscaled: keep the parameters in Float");
      gradients.of(gradient).push_back(gradient);
    }
    for (auto& [device, dtype, first_step, list] : gradients.sorted()) {
      at::Tensor found = found_inf->to(device);
      at::_amp_foreach_non_finite_check_and_unscale_(list, found, inverse_scale->to(device));
      if (!found.is_same(*found_inf)) found_inf->copy_(at::max(*found_inf, found.to(found_inf->device())));
    }
  });
}
}
