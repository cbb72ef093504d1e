// Lists of tensors by device and dtype, as foreach and fused kernels want them: torch/optim/optimizer.py,
// _group_tensors_by_device_and_dtype.
#pragma once
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

// `Lists` is what a kernel takes for one group.
template <class Lists>
class Groups {
 public:
  struct Group {
    at::Device device;
    at::ScalarType dtype;
    // The momentum buffers of these tensors are still to be filled.
    bool first_step;
    Lists lists;

    auto key() const { return std::make_tuple(device.type(), device.index(), dtype, first_step); }
  };

  // The lists of the group of `tensor`. Most models have one group, and neighbors mostly share theirs.
  Lists& of(const at::Tensor& tensor, bool first_step = false) {
    const auto is_its_group = [&](const Group& group) {
      return group.dtype == tensor.scalar_type() && group.device == tensor.device() && group.first_step == first_step;
    };
    if (last_ >= groups_.size() || !is_its_group(groups_[last_])) {
      last_ = static_cast<size_t>(std::find_if(groups_.begin(), groups_.end(), is_its_group) - groups_.begin());
      if (last_ == groups_.size()) groups_.push_back(Group{tensor.device(), tensor.scalar_type(), first_step, Lists()});
    }
    return groups_[last_].lists;
  }

  // All groups, in an order that does not depend on that of the tensors.
  std::vector<Group>& sorted() {
    std::sort(groups_.begin(), groups_.end(), [](const Group& a, const Group& b) { return a.key() < b.key(); });
    last_ = 0;
    return groups_;
  }

 private:
  std::vector<Group> groups_;
  size_t last_ = 0;
};
