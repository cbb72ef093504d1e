// Communication hooks as a pair of callbacks (torch/nn/parallel/distributed.py, register_comm_hook).
//
// The first callback runs in the backward pass, as soon as a bucket is complete: it starts the communication. The second one
// finishes it at the end of the backward pass, where c10d asks for the result. It runs on the stream on which the gradients
// are used, so a wait for NCCL orders that stream and does not block the host.
#include "hook.hpp"

#include "guard.hpp"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>
#include <ATen/ops/randn.h>
#include <torch/custom_class.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace {
void throw_unless_ok(int32_t status, ddp_error& error) {
  if (status == DDP_OK) return;
  const std::string message =
      error.message == nullptr ? "the communication hook failed without a message" : error.message;
  ddp_error_clear(&error);
  throw std::runtime_error(message);
}

// Communication that was started, and is to be finished once.
class Pending : public torch::CustomClassHolder {
 public:
  Pending(const ddp_comm_hook_callbacks& callbacks, void* raw) : callbacks_(callbacks), raw_(raw) {}
  ~Pending() override {
    if (raw_ != nullptr) callbacks_.drop_pending(raw_);
  }

  at::Tensor finish() {
    TORCH_CHECK(raw_ != nullptr, "the result of a communication hook was already taken");
    at::NoGradGuard no_grad;
    ddp_error error{nullptr};
    ddp_tensor* result = nullptr;
    throw_unless_ok(callbacks_.finish(std::exchange(raw_, nullptr), &result, &error), error);
    return *std::unique_ptr<at::Tensor>(result);
  }

 private:
  const ddp_comm_hook_callbacks callbacks_;
  void* raw_;
};

class Hook : public c10d::CommHookInterface {
 public:
  explicit Hook(const ddp_comm_hook_callbacks& callbacks) : callbacks_(callbacks) {}
  ~Hook() override { callbacks_.drop_context(callbacks_.context); }

  c10::intrusive_ptr<c10::ivalue::Future> runHook(c10d::GradBucket& bucket) override {
    at::NoGradGuard no_grad;
    std::vector<at::Tensor> gradients = bucket.getGradients();
    std::vector<at::Tensor> parameters = bucket.getParameters();
    const auto gradient_pointers = pointers(gradients), parameter_pointers = pointers(parameters);
    const ddp_grad_bucket view{bucket.getIndex(),          bucket.isLast(),           &bucket.getBufferRef(),
                               gradient_pointers.data(), parameter_pointers.data(), gradients.size()};
    ddp_error error{nullptr};
    void* raw = nullptr;
    throw_unless_ok(callbacks_.run(callbacks_.context, &view, &raw, &error), error);
    // c10d only takes a future. This one is complete, and its value is what parseHookResult finishes.
    auto future = c10::make_intrusive<c10::ivalue::Future>(c10::CapsuleType::get());
    future->markCompleted(c10::IValue::make_capsule(c10::make_intrusive<Pending>(callbacks_, raw)));
    return future;
  }

  at::Tensor parseHookResult(const c10::IValue& result) override {
    return static_cast<Pending&>(*result.toCapsule()).finish();
  }

 private:
  static std::vector<ddp_tensor*> pointers(std::vector<at::Tensor>& tensors) {
    std::vector<ddp_tensor*> pointers;
    for (auto& tensor : tensors) pointers.push_back(&tensor);
    return pointers;
  }

  const ddp_comm_hook_callbacks callbacks_;
};
}  // namespace

std::unique_ptr<c10d::CommHookInterface> ddp_make_comm_hook(const ddp_comm_hook_callbacks& callbacks) {
  return std::make_unique<Hook>(callbacks);
}

void ddp_finish_comm_hook(const c10::IValue& result) {
  if (result.isCapsule()) static_cast<Pending&>(*result.toCapsule()).finish();
}

extern "C" {

void ddp_error_fill(ddp_error* error, const char* message) noexcept { ddp_fill_error(error, message); }

int32_t ddp_fill_randn(ddp_tensor* const* tensors, size_t n, uint64_t seed, ddp_error* error) noexcept {
  return guarded(error, [&] {
    at::NoGradGuard no_grad;
    const at::Generator generator = at::detail::createCPUGenerator(seed);
    for (size_t i = 0; i < n; ++i) {
      const auto options = at::TensorOptions().dtype(tensors[i]->scalar_type()).device(at::kCPU);
      tensors[i]->copy_(at::randn(tensors[i]->sizes(), generator, options));
    }
  });
}
}
