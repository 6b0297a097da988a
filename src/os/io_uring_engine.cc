#include "os/io_uring_engine.h"

#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <iterator>

#include "base/check.h"
#include "os/file.h"
#include "os/syscall.h"
#include "os/thread.h"

namespace polder::os {

namespace {

// Completions of receives carry this and their index, those of transfers the index of their operation.
constexpr std::uint64_t kReceiveBit = std::uint64_t{1} << 32;
constexpr std::uint64_t kCancellation = ~std::uint64_t{0};

}  // namespace

IoUringEngine::~IoUringEngine() {
  if (!open_) return;
  cancel_receives();
  IoCompletion ignored[16];
  while (outstanding() != 0) {
    if (reap(ignored, 16) == 0) wait(-1);
  }
  io_uring_queue_exit(&ring_);
}

// A receive that completed after the ring's end would write into memory that is no longer its own.
void IoUringEngine::cancel_receives() {
  const ErrnoGuard guard;
  for (const Receive& receive : receives_) {
    if (!receive.pending) continue;
    io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
    if (entry == nullptr) return;
    io_uring_prep_cancel64(entry, kReceiveBit | static_cast<std::uint64_t>(&receive - receives_), 0);
    io_uring_sqe_set_data64(entry, kCancellation);
  }
  const auto any_pending = [this] {
    return std::any_of(std::begin(receives_), std::end(receives_), [](const Receive& r) { return r.pending; });
  };
  IoCompletion ignored[16];
  while (any_pending()) {
    if (reap(ignored, 16) == 0) wait(-1);
  }
}

// Completions are delivered when this thread waits for them or looks, and at no other time: without this each of them
// interrupts it with a signal. Linux 6.1; before, the plain ring does the same more slowly.
Errno IoUringEngine::set_up(unsigned depth) {
  constexpr unsigned kFlags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
  int result = io_uring_queue_init(depth + 2 * kMaxReceives, &ring_, kFlags);
  if (result == -EINVAL) result = io_uring_queue_init(depth + 2 * kMaxReceives, &ring_, 0);
  return result < 0 ? Errno(-result) : kOk;
}

Errno IoUringEngine::init(unsigned depth) {
  const ErrnoGuard guard;
  Errno error = table_.init(depth);
  if (!error.ok()) return error;
  error = set_up(depth);
  if (!error.ok()) return error;
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

void IoUringEngine::receive(int fd, void* buffer, std::size_t size, std::uint64_t tag) {
  Receive* const free = std::find_if(std::begin(receives_), std::end(receives_), [](Receive& r) { return !r.pending; });
  POLDER_CHECK(free != std::end(receives_), "too many receives", fd);
  *free = {.pending = true, .fd = fd, .buffer = buffer, .size = size, .tag = tag};
  queue(*free);
}

void IoUringEngine::queue(const Receive& receive) {
  io_uring_sqe* const entry = io_uring_get_sqe(&ring_);
  POLDER_CHECK(entry != nullptr, "submission ring full", receive.fd);
  io_uring_prep_read(entry, receive.fd, receive.buffer, static_cast<unsigned>(receive.size), 0);
  io_uring_sqe_set_data64(entry, kReceiveBit | static_cast<std::uint64_t>(&receive - receives_));
}

void IoUringEngine::submit() {
  const ErrnoGuard guard;
  while (io_uring_sq_ready(&ring_) != 0) {
    const int result = io_uring_submit(&ring_);
    if (result > 0) continue;
    POLDER_CHECK(result == 0 || passes(result), "io_uring_enter refused", -result);
    static_cast<void>(system_call(SYS_sched_yield));
  }
}

unsigned IoUringEngine::reap(IoCompletion* completions, unsigned capacity) {
  const ErrnoGuard guard;
  unsigned count = 0;
  bool resubmit = false;
  io_uring_cqe* completion = nullptr;
  while (count < capacity && io_uring_peek_cqe(&ring_, &completion) == 0) {
    const std::uint64_t data = io_uring_cqe_get_data64(completion);
    const long result = completion->res;
    io_uring_cqe_seen(&ring_, completion);
    if (data == kCancellation) continue;
    if ((data & kReceiveBit) != 0) {
      Receive& receive = receives_[data & ~kReceiveBit];
      if (passes(result)) {
        queue(receive);
        resubmit = true;
        continue;
      }
      receive.pending = false;
      completions[count++] = result < 0 ? IoCompletion{receive.tag, Errno(static_cast<int>(-result))}
                                        : IoCompletion{receive.tag, kOk, static_cast<std::size_t>(result)};
      continue;
    }
    const auto index = static_cast<std::uint32_t>(data);
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
  const ErrnoGuard guard;
  if (io_uring_cq_ready(&ring_) != 0) return submit();
  __kernel_timespec timeout{timeout_ms / 1000, static_cast<long long>(timeout_ms % 1000) * 1000000};
  io_uring_cqe* completion = nullptr;
  const int result = timeout_ms == 0 ? io_uring_submit_and_get_events(&ring_)
                                     : io_uring_submit_and_wait_timeout(&ring_, &completion, 1,
                                                                        timeout_ms < 0 ? nullptr : &timeout, nullptr);
  POLDER_CHECK(result >= 0 || passes(result), "io_uring_enter refused", -result);
  submit();  // what a passing refusal left behind
}

bool IoUringEngine::spin(std::uint64_t ns) {
  submit();
  const std::uint64_t start = monotonic_ns();
  do {
    // Completions wait for this thread to enter the kernel, which reap() does when the flag says so.
    const unsigned flags = std::atomic_ref<unsigned>(*ring_.sq.kflags).load(std::memory_order_relaxed);
    if (io_uring_cq_ready(&ring_) != 0 || (flags & IORING_SQ_TASKRUN) != 0) return true;
    relax_cpu();
  } while (monotonic_ns() - start < ns);
  return false;
}

}  // namespace polder::os
