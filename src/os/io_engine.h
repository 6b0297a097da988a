// Asynchronous reads and writes of one thread, and the messages it waits for, behind one interface with two backends:
// io_uring, and a small pool of pread/pwrite workers where io_uring is refused (seccomp, kernel.io_uring_disabled). A short
// transfer is resubmitted by the engine for its remainder; a completion is whole or an error. An engine belongs to the
// thread that made it; nothing here allocates from the heap, memory comes from map_private.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/errno.h"

struct iovec;

namespace polder::os {

struct IoCompletion {
  std::uint64_t tag = 0;  // the submitter's, unchanged
  Errno error;            // kOk: every byte was transferred, or a message was received
  std::size_t bytes = 0;  // of the message
};

enum class IoBackend : unsigned char { automatic, uring, workers };

class IoEngine {
 public:
  virtual ~IoEngine() = default;

  // Queues one transfer. `vectors` and the memory it names must stay valid until the completion. At most `depth`
  // transfers may be outstanding (asserted). Fewer than 64 vectors of whole pages each.
  virtual void read(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) = 0;
  virtual void write(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) = 0;
  // Completes once `fd` (non-blocking: a userfaultfd, an eventfd) had something to read, which is then in `buffer`;
  // refusals that pass are not an error. One at a time per descriptor, at most kMaxReceives; not part of outstanding().
  static constexpr unsigned kMaxReceives = 4;
  virtual void receive(int fd, void* buffer, std::size_t size, std::uint64_t tag) = 0;
  // Hands everything queued to the kernel (or to the workers). Does not wait.
  virtual void submit() = 0;
  // Takes what has completed without waiting; the number taken.
  virtual unsigned reap(IoCompletion* completions, unsigned capacity) = 0;
  // Submits, and waits until reap() would return something, at most `timeout_ms` (negative: for ever).
  virtual void wait(int timeout_ms) = 0;
  // Submits, and looks for completions without sleeping, for at most `ns`. True when reap() would return something.
  virtual bool spin(std::uint64_t ns) = 0;
  // Reads and writes.
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
