// The backend of io_engine.h for processes without io_uring: service threads that call preadv(2) and pwritev(2).
//
//   owner  read()/write() -> queued_ -> submit() -> waiting_ -> worker -> finished_ -> reap()
//
// Lock: LockRank::completions over the two lists that both sides touch, never held over a transfer. Workers use the
// descriptor table of the thread that made the engine. The destructor waits for them to end; their stacks stay mapped
// (64 KiB of address space and a few touched pages each), since a detached thread runs on its own until the kernel has
// taken it down. Engines live as long as their process, so that is at most once.
#pragma once

#include <atomic>

#include "os/io_engine.h"
#include "os/io_operation.h"
#include "os/mutex.h"

namespace polder::os {

class WorkerEngine final : public IoEngine {
 public:
  WorkerEngine() = default;
  // Waits for what was submitted.
  ~WorkerEngine() override;
  WorkerEngine(const WorkerEngine&) = delete;
  WorkerEngine& operator=(const WorkerEngine&) = delete;

  // ENOMEM, EMFILE, EAGAIN when not even one worker can be started; the engine may only be destroyed afterwards.
  Errno init(unsigned depth);

  void read(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) override;
  void write(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) override;
  void receive(int fd, void* buffer, std::size_t size, std::uint64_t tag) override;
  void submit() override;
  unsigned reap(IoCompletion* completions, unsigned capacity) override;
  void wait(int timeout_ms) override;
  bool spin(std::uint64_t ns) override;
  unsigned outstanding() const override { return table_.taken(); }
  const char* name() const override { return "workers"; }

 private:
  // The owner's: read by reap() once wait() found the descriptor readable.
  struct Receive {
    enum class State : unsigned char { free, pending, readable } state = State::free;
    int fd = -1;
    void* buffer = nullptr;
    std::size_t size = 0;
    std::uint64_t tag = 0;
  };

  void work();
  unsigned reap_receives(IoCompletion* completions, unsigned capacity);

  IoTable table_;   // entries belong to the list, or the worker, that holds them; take and give_back are the owner's
  int event_ = -1;  // immutable after init; readable soon after signalled_ was set
  IoList queued_;   // the owner's
  unsigned queued_count_ = 0;
  Receive receives_[kMaxReceives];

  Mutex mutex_{LockRank::completions};
  IoList waiting_ POLDER_GUARDED_BY(mutex_);
  IoList finished_ POLDER_GUARDED_BY(mutex_);
  unsigned idle_ POLDER_GUARDED_BY(mutex_) = 0;
  bool stopping_ POLDER_GUARDED_BY(mutex_) = false;
  // Atomic: set by the worker that is about to make event_ readable because it found it clear after an append; cleared by
  // the owner once it has drained event_. In between, nobody else signals.
  std::atomic<bool> signalled_{false};
  // Atomic: the futexes that workers sleep on while they have nothing to do, and the destructor while they are alive.
  std::atomic<std::uint32_t> submissions_{0};
  std::atomic<std::uint32_t> alive_{0};
};

}  // namespace polder::os
