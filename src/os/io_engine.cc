#include "os/io_engine.h"

#include <new>

#include "base/check.h"
#include "os/io_uring_engine.h"
#include "os/worker_engine.h"

namespace polder::os {
namespace {

constexpr unsigned kGreatestDepth = 4096;

template <typename Engine>
Result<IoEngine*> build(IoEngineStorage& storage, unsigned depth) {
  static_assert(sizeof(Engine) <= kIoEngineSize);
  static_assert(alignof(Engine) <= alignof(IoEngineStorage));
  auto* const engine = new (storage.bytes) Engine;
  const Errno error = engine->init(depth);
  if (error.ok()) return success<IoEngine*>(engine);
  engine->~Engine();
  return {nullptr, error};
}

}  // namespace

Result<IoEngine*> make_io_engine(IoEngineStorage& storage, IoBackend backend, unsigned depth) {
  POLDER_CHECK(depth != 0 && depth <= kGreatestDepth, "I/O engine's depth", depth);
  if (backend != IoBackend::workers) {
    const Result<IoEngine*> ring = build<IoUringEngine>(storage, depth);
    if (ring.ok() || backend == IoBackend::uring) return ring;
  }
  return build<WorkerEngine>(storage, depth);
}

Errno probe_io_uring() {
  IoUringEngine probe;
  return probe.init(1);
}

}  // namespace polder::os
