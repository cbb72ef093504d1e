#include "guard.hpp"

#include <c10/util/Exception.h>

#include <cstdlib>
#include <cstring>
#include <string>

namespace {
bool wants_backtrace() {
  const char* value = std::getenv("DDP_BACKTRACE");
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

// c10d has no exception class for a time-out: only the message tells. The setting "Timeout(ms)=600000", which c10d
// prints with every operation, is none.
bool is_timeout(const std::string& message) {
  if (message.find("imed out") != std::string::npos) return true;
  for (size_t at = 0; (at = message.find("imeout", at)) != std::string::npos; ++at)
    if (message.compare(at, 11, "imeout(ms)=") != 0) return true;
  return false;
}

// The message without what c10 appends. NCCL gives its reason ("Duplicate GPU detected") after the first line.
std::string reason_of(std::string message) {
  if (message.find("NCCL") == std::string::npos) return message.substr(0, message.find('\n'));
  message = message.substr(0, message.find("\nException raised from"));
  while (!message.empty() && message.back() == '\n') message.pop_back();
  for (size_t at = 0; (at = message.find('\n', at)) != std::string::npos;) message.replace(at, 1, "; ");
  return message;
}

int32_t record(ddp_error* error, std::string message) {
  const int32_t status = is_timeout(message) ? DDP_TIMEOUT : DDP_ERROR;
  if (!wants_backtrace()) message = reason_of(std::move(message));
  ddp_fill_error(error, message.c_str());
  return status;
}
}  // namespace

void ddp_fill_error(ddp_error* error, const char* message) noexcept {
  if (error == nullptr) return;
  std::free(error->message);
  error->message = strdup(message);
}

extern "C" void ddp_error_clear(ddp_error* error) noexcept {
  std::free(error->message);
  error->message = nullptr;
}

int32_t ddp_catch(ddp_error* error) noexcept {
  try {
    throw;
  } catch (const UnusedParameters& e) {
    ddp_fill_error(error, e.lines());
    return DDP_UNUSED;
  } catch (const c10::Error& e) {
    return record(error, wants_backtrace() ? e.what() : e.what_without_backtrace());
  } catch (const std::exception& e) {
    return record(error, e.what());
  } catch (...) {
    return record(error, "an exception that is not a std::exception");
  }
}
