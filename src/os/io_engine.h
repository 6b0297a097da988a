// Asynchronous reads and writes of one thread, behind one interface with two backends: io_uring, and a small pool of
// pread/pwrite workers where io_uring is refused (seccomp, kernel.io_uring_disabled). A short transfer is resubmitted by
// the engine for its remainder; a completion is whole or an error. An engine belongs to the thread that made it; nothing
// here allocates from the heap, memory comes from map_private.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/errno.h"

struct iovec;

namespace polder::os {

struct IoCompletion {
  std::uint64_t tag = 0;  // the submitter's, unchanged
  Errno error;            // kOk: every byte was transferred
};

enum class IoBackend : unsigned char { automatic, uring, workers };

class IoEngine {
 public:
  virtual ~IoEngine() = default;

  // Queues one transfer. `vectors` and the memory it names must stay valid until the completion. At most `depth`
  // transfers may be outstanding (asserted). Fewer than 64 vectors of whole pages each.
  virtual void read(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) = 0;
  virtual void write(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) = 0;
  // Hands everything queued to the kernel (or to the workers). Does not wait.
  virtual void submit() = 0;
  // Takes finished transfers without waiting; the number taken.
  virtual unsigned reap(IoCompletion* completions, unsigned capacity) = 0;
  // Waits until reap() would return something, at most `timeout_ms` (negative: for ever).
  virtual void wait(int timeout_ms) = 0;
  // A descriptor that polls readable while reap() would return something.
  virtual int completion_fd() const = 0;
  virtual unsigned outstanding() const = 0;
  virtual const char* name() const = 0;
};

// Storage for an engine inside its owner: engines are built in place, so that service threads never allocate.
inline constexpr std::size_t kIoEngineSize = 1024;
struct IoEngineStorage {
  alignas(64) unsigned char bytes[kIoEngineSize];
};

// Builds the engine in `storage` (destroy with ->~IoEngine()). `automatic` tries io_uring and falls back to workers.
// ENOSYS or EPERM when `uring` was demanded and is refused.
Result<IoEngine*> make_io_engine(IoEngineStorage& storage, IoBackend backend, unsigned depth);

// True when this process may create a ring (probed with a throw-away one).
Errno probe_io_uring();

}  // namespace polder::os
