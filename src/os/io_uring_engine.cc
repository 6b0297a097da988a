#include "os/io_uring_engine.h"

#include <sys/syscall.h>

#include "base/check.h"
#include "os/file.h"
#include "os/syscall.h"

namespace polder::os {

IoUringEngine::~IoUringEngine() {
  if (!open_) return;
  if (outstanding() != 0) submit();
  IoCompletion ignored[16];
  while (outstanding() != 0) {
    if (reap(ignored, 16) == 0) wait(-1);
  }
  io_uring_queue_exit(&ring_);
}

Errno IoUringEngine::init(unsigned depth) {
  const ErrnoGuard guard;
  const Errno error = table_.init(depth);
  if (!error.ok()) return error;
  // No set-up flags. Measured (O_DIRECT 4 KiB random reads, 2 vCPU, others at work): 39 µs at depth 1, 48 k/s at depth
  // 32, 3.5 µs of CPU each; COOP_TASKRUN and SINGLE_ISSUER change nothing beyond the noise, nor does waiting inside
  // io_uring_enter. DEFER_TASKRUN must not be used: it never wakes a poll of the ring's descriptor.
  const int result = io_uring_queue_init(depth, &ring_, 0);
  if (result < 0) return Errno(-result);
  open_ = true;
  const int excluded = io_uring_ring_dontfork(&ring_);
  if (excluded < 0) return Errno(-excluded);

  // Some filters allow the set-up and refuse its use.
  io_uring_prep_nop(io_uring_get_sqe(&ring_));
  io_uring_cqe* completion = nullptr;
  int submitted;
  do {
    submitted = io_uring_submit_and_wait(&ring_, 1);
  } while (submitted == -EINTR || submitted == -EAGAIN);
  if (submitted < 0) return Errno(-submitted);
  if (io_uring_peek_cqe(&ring_, &completion) != 0) return Errno(EIO);
  io_uring_cqe_seen(&ring_, completion);
  return kOk;
}

void IoUringEngine::read(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) {
  queue(table_.take(IoDirection::read, fd, vectors, count, offset, tag));
}

void IoUringEngine::write(int fd, const iovec* vectors, unsigned count, std::uint64_t offset, std::uint64_t tag) {
  queue(table_.take(IoDirection::write, fd, vectors, count, offset, tag));
}

void IoUringEngine::queue(std::uint32_t index) {
  io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
  // The ring has an entry for every operation of the table, and an operation is in it once at most.
  POLDER_CHECK(entry != nullptr, "submission ring full", index);
  const IoOperation& operation = table_[index];
  if (operation.direction == IoDirection::read) {
    io_uring_prep_readv(entry, operation.fd, operation.vectors, operation.count, operation.offset);
  } else {
    io_uring_prep_writev(entry, operation.fd, operation.vectors, operation.count, operation.offset);
  }
  io_uring_sqe_set_data64(entry, index);
}

void IoUringEngine::submit() {
  const ErrnoGuard guard;
  while (io_uring_sq_ready(&ring_) != 0) {
    const int result = io_uring_submit(&ring_);
    if (result > 0) continue;
    // EAGAIN, ENOMEM: the kernel is short of memory for requests. EBUSY: completions overflow.
    POLDER_CHECK(result == 0 || result == -EAGAIN || result == -EBUSY || result == -EINTR || result == -ENOMEM,
                 "io_uring_enter refused", -result);
    static_cast<void>(system_call(SYS_sched_yield));
  }
}

unsigned IoUringEngine::reap(IoCompletion* completions, unsigned capacity) {
  const ErrnoGuard guard;
  unsigned count = 0;
  bool resubmit = false;
  io_uring_cqe* completion = nullptr;
  while (count < capacity && io_uring_peek_cqe(&ring_, &completion) == 0) {
    const auto index = static_cast<std::uint32_t>(io_uring_cqe_get_data64(completion));
    const long result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    IoOperation& operation = table_[index];
    if (operation.advance(result)) {
      completions[count++] = {operation.tag, operation.error};
      table_.give_back(index);
    } else {
      queue(index);
      resubmit = true;
    }
  }
  if (resubmit) submit();
  return count;
}

void IoUringEngine::wait(int timeout_ms) {
  if (io_uring_cq_ready(&ring_) != 0) return;
  static_cast<void>(poll_readable(&ring_.ring_fd, 1, timeout_ms));
}

}  // namespace polder::os
