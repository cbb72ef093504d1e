#pragma once
#include "ddp.h"

#include <torch/csrc/distributed/c10d/Store.hpp>

struct ddp_store {
  c10::intrusive_ptr<c10d::Store> store;
};
