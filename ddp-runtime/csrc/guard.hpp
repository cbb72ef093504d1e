// The one place where C++ exceptions end.
#pragma once
#include "ddp.h"

#include <exception>
#include <stdexcept>
#include <string>

void ddp_fill_error(ddp_error* error, const char* message) noexcept;
// Turns the exception in flight into a status and a message.
int32_t ddp_catch(ddp_error* error) noexcept;

// A backward pass that did not reach all parameters: DDP_UNUSED, with their names as the message. `what` is for who calls
// tch's backward, and has no more than that.
class UnusedParameters : public std::runtime_error {
 public:
  UnusedParameters(const std::string& what, std::string lines) : std::runtime_error(what), lines_(std::move(lines)) {}
  const char* lines() const noexcept { return lines_.c_str(); }

 private:
  std::string lines_;  // the names, one per line
};

template <class F>
int32_t guarded(ddp_error* error, F&& body) noexcept {
  try {
    body();
    return DDP_OK;
  } catch (...) {
    return ddp_catch(error);
  }
}
