#include "store.hpp"

#include "guard.hpp"

#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <string>

extern "C" {

int32_t ddp_store_tcp(const ddp_tcp_store_options* options, ddp_store** out, ddp_error* error) noexcept {
  return guarded(error, [&] {
    c10d::TCPStoreOptions tcp;
    tcp.port = options->port;
    tcp.isServer = options->is_server;
    tcp.numWorkers = options->world_size;
    // Nobody waits for the others here: the process group's own rendezvous does, with the same time-out.
    tcp.waitWorkers = false;
    tcp.timeout = std::chrono::milliseconds(options->timeout_ms);
    if (options->listen_fd >= 0) tcp.masterListenFd = options->listen_fd;
    c10::intrusive_ptr<c10d::Store> store = c10::make_intrusive<c10d::TCPStore>(options->host, tcp);
    if (*options->prefix != '\0') {
      // By this key, ProcessGroupNCCL tells other ranks to write their lists of collectives and to end. It has no prefix, so
      // torchrun's store still has it when the ranks have been restarted.
      store->deleteKey("exception_dump");
      store = c10::make_intrusive<c10d::PrefixStore>(options->prefix, store);
    }
    *out = new ddp_store{std::move(store)};
  });
}

int32_t ddp_store_local(ddp_store** out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = new ddp_store{c10::make_intrusive<c10d::HashStore>()}; });
}

int32_t ddp_store_prefixed(const ddp_store* store, const char* prefix, ddp_store** out, ddp_error* error) noexcept {
  return guarded(error, [&] { *out = new ddp_store{c10::make_intrusive<c10d::PrefixStore>(prefix, store->store)}; });
}

void ddp_store_free(ddp_store* store) noexcept {
  guarded(nullptr, [&] { delete store; });
}
}
