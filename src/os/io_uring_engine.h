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
  void receive(int fd, void* buffer, std::size_t size, std::uint64_t tag) override;
  void submit() override;
  unsigned reap(IoCompletion* completions, unsigned capacity) override;
  void wait(int timeout_ms) override;
  bool spin(std::uint64_t ns) override;
  unsigned outstanding() const override { return table_.taken(); }
  const char* name() const override { return "io_uring"; }

 private:
  struct Receive {
    bool pending = false;
    int fd = -1;
    void* buffer = nullptr;
    std::size_t size = 0;
    std::uint64_t tag = 0;
  };

  Errno set_up(unsigned depth);
  void queue(std::uint32_t index);
  void queue(const Receive& receive);
  void cancel_receives();

  io_uring ring_{};
  bool open_ = false;
  IoTable table_;
  Receive receives_[kMaxReceives];
};

}  // namespace polder::os
