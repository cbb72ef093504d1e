#pragma once
#include "ddp.h"

#include <torch/csrc/distributed/c10d/comm.hpp>

#include <memory>

// A hook that calls the callbacks. It owns their context, also if it is never registered.
std::unique_ptr<c10d::CommHookInterface> ddp_make_comm_hook(const ddp_comm_hook_callbacks& callbacks);

// Finishes the communication of a bucket for which a hook gave `result`, as CommHookInterface::parseHookResult does at the
// end of a backward pass. Does nothing for the result of one of c10d's own hooks, which has finished when its future has.
void ddp_finish_comm_hook(const c10::IValue& result);
