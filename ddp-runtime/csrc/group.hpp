#pragma once
#include "ddp.h"

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

struct ddp_group {
  c10::intrusive_ptr<c10d::ProcessGroup> group;
};
