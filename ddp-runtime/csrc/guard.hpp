// The one place where C++ exceptions end.
#pragma once
#include "ddp.h"

#include <exception>

void ddp_fill_error(ddp_error* error, const char* message) noexcept;
// Turns the exception in flight into a status and a message.
int32_t ddp_catch(ddp_error* error) noexcept;

template <class F>
int32_t guarded(ddp_error* error, F&& body) noexcept {
  try {
    body();
    return DDP_OK;
  } catch (...) {
    return ddp_catch(error);
  }
}
