#pragma once
#include <torch/csrc/autograd/utils/lambda_post_hook.h>
#include <torch/csrc/autograd/variable.h>
#include <torch/csrc/distributed/c10d/reducer.hpp>

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

// c10d's reducer, asked what it does not tell: whether a backward pass is done, and which parameters it still waits for.
class Reducer : public c10d::Reducer {
 public:
  using c10d::Reducer::Reducer;

  // For a new forward pass: no parameter has its gradient yet.
  void forget_ready() {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::fill(backward_stats_.begin(), backward_stats_.end(), kNotReady);
  }

  // Between a forward pass and the end of its backward pass.
  bool is_waiting() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return expect_autograd_hooks_;
  }

  // Some parameters have their gradients, and some do not.
  bool is_partial() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return expect_autograd_hooks_ && require_finalize_;
  }

  // The parameters that it waits for.
  std::vector<size_t> missing() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<size_t> indices;
    for (size_t i = 0; i < backward_stats_.size(); ++i)
      if (backward_stats_[i] == kNotReady) indices.push_back(i);
    return indices;
  }

  // Rebuilds the buckets after the first backward pass, and after set_bucket_order.
  void rebuild_buckets() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (is_order_known()) bucket_order_.assign(rebuilt_param_indices_.begin(), rebuilt_param_indices_.end());
    }
    c10d::Reducer::rebuild_buckets();
  }

  // The order of the parameters in the rebuilt buckets; empty if it is not known yet.
  std::vector<size_t> bucket_order() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (is_order_known()) return {rebuilt_param_indices_.begin(), rebuilt_param_indices_.end()};
    return bucket_order_;
  }

  // Makes the next rebuild use this order, as if the gradients had become ready in it.
  void set_bucket_order(const std::vector<size_t>& order) {
    const std::lock_guard<std::mutex> lock(mutex_);
    has_rebuilt_bucket_ = false;
    if (!should_rebuild_buckets()) return;
    rebuilt_params_.clear();
    for (const size_t index : order) rebuilt_params_.push_back(params_[index]);
    rebuilt_param_indices_.assign(order.begin(), order.end());
  }

  // Adds a hook to the first parameter's node in graphs: it runs when the parameter got its gradient.
  void add_hook(std::function<void()> hook) {
    using torch::autograd::variable_list;
    grad_accumulators_[0]->add_post_hook(std::make_unique<torch::autograd::utils::LambdaPostHook>(
        [hook = std::move(hook)](const variable_list& outputs, const variable_list&) { return hook(), outputs; }));
  }

  // The last forward pass with a graph was not to be synchronised.
  std::atomic<bool> accumulating{false};

  // The first step of a static graph has its delayed all-reduce.
  std::atomic<bool> delay_enqueued{false};

  // The first parameter from `index` on that backward passes reach no more: a change of dtype or device has given it
  // another node in their graph, without the hook.
  int64_t find_lost(size_t index) const {
    for (; index < params_.size(); ++index)
      if (torch::autograd::impl::try_get_grad_accumulator(params_[index]) != grad_accumulators_[index])
        return static_cast<int64_t>(index);
    return -1;
  }

 private:
  static constexpr int64_t kNotReady = -1;

  // Whether every parameter has its place in the next rebuild.
  bool is_order_known() const { return should_rebuild_buckets() && rebuilt_param_indices_.size() == params_.size(); }

  // The order of the last rebuild.
  std::vector<size_t> bucket_order_;
};
