// The io_uring backend of io_engine.h: one ring, made and used by one thread, not inherited by forked children.
//
// A kernel that refuses io_uring_enter(2) after it allowed the ring (a seccomp filter installed later) ends the process
// with a message: transfers in flight could never complete.
#pragma once

#include <liburing.h>

#include "os/io_engine.h"
#include "os/io_operation.h"

namespace polder::os {

class IoUringEngine final : public IoEngine {
 public:
  IoUringEngine() = default;
  // Waits for what is in flight.
  ~IoUringEngine() override;
  IoUringEngine(const IoUringEngine&) = delete;
  IoUringEngine& operator=(const IoUringEngine&) = delete;

  // ENOSYS, EPERM, ENOMEM; the engine may only be destroyed afterwards.
  Errno init(unsigned depth);

  void read(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) override;
  void write(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) override;
  void submit() override;
  unsigned reap(IoCompletion* completions, unsigned capacity) override;
  void wait(int timeout_ms) override;
  int completion_fd() const override { return ring_.ring_fd; }
  unsigned outstanding() const override { return table_.taken(); }
  const char* name() const override { return "io_uring"; }

 private:
  void queue(std::uint32_t index);

  io_uring ring_{};
  bool open_ = false;
  IoTable table_;
};

}  // namespace polder::os
