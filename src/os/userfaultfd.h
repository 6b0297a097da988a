// userfaultfd(2): fault delivery and the moves that install and remove pages. Every ioctl the pager uses, with the
// kernel's traps (documented beside each) already handled. Carries its own ABI definitions: Debian 12's headers end at
// 6.1. Not thread-safe to open or close; all other calls may run concurrently. No call changes the thread's errno.
//
// Kernel documents: admin-guide/mm/userfaultfd.rst, ioctl_userfaultfd(2).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/errno.h"
#include "os/pagemap.h"

namespace polder::os {

struct UffdFeatures {
  bool thread_id = false;  // messages carry the faulting thread
  bool move = false;       // UFFDIO_MOVE, on a kernel whose implementation is known good
  bool poison = false;     // UFFDIO_POISON
};

// Trivial, so that tables of it cost no memory before they are used.
struct Fault {
  std::uintptr_t address;  // page aligned
  std::uint32_t thread;    // kernel thread id; 0 when the kernel does not say
  std::uint16_t offset;    // in the page; 0 when the kernel does not say
  bool write;
};

// How many bytes an operation completed from its start, and why it stopped short (kOk when it did not).
struct Progress {
  std::size_t done = 0;
  Errno error;
};

class Userfaultfd {
 public:
  Userfaultfd() = default;
  ~Userfaultfd();
  Userfaultfd(const Userfaultfd&) = delete;
  Userfaultfd& operator=(const Userfaultfd&) = delete;

  // What this process could get, found on a throw-away descriptor: /dev/userfaultfd first, then the system call (full
  // privilege only, never UFFD_USER_MODE_ONLY). EACCES, EPERM, ENOSYS, ENOENT when neither gives one.
  static Result<UffdFeatures> probe();

  // Opens non-blocking, close-on-exec, with thread_id and whatever of move and poison the kernel has.
  Errno open();
  // Opens for move() alone, into memory that nobody touches meanwhile: as no fault is ever served, no privilege is needed.
  // EOPNOTSUPP: the kernel's moves are not to be had, or not to be trusted.
  Errno open_for_moves();
  void close();
  int fd() const { return fd_; }
  const UffdFeatures& features() const { return features_; }

  // Missing-page faults in the range come to this descriptor from now on. EBUSY: another userfaultfd has it.
  Errno register_missing(void* address, std::size_t size);
  Errno unregister(void* address, std::size_t size);

  // Reads up to `capacity` pending faults without blocking; the number read, 0 when none is pending. Events that are
  // not page faults are skipped.
  std::size_t read_faults(Fault* faults, std::size_t capacity);
  // The same for messages that an IoEngine received: `size` bytes, kMessageSize each.
  static constexpr std::size_t kMessageSize = 32;
  std::size_t parse_faults(const void* messages, std::size_t size, Fault* faults) const;

  enum class Wake : unsigned char { yes, no };

  // Copies `source` to the missing pages at `destination`. EEXIST: a page is there already. EAGAIN is retried inside.
  Progress copy(void* destination, const void* source, std::size_t size, Wake wake);
  // Moves present pages; holes in the source are skipped and stay holes in the destination. EBUSY: the page at
  // source+done is pinned or shared with a forked relative. EINVAL: mlock states differ. EEXIST: the destination is
  // occupied, by something else than the page itself: while memory is compacted, Linux 6.18 moves pages and then reports
  // them as being in their own way (measured); these count as done.
  Progress move(void* destination, void* source, std::size_t size, Wake wake);
  // Whether a page is there that move() refused. Open for moves alone, the first question opens the pagemap: by one thread.
  Presence presence(const void* page);
  // Touching the pages raises SIGBUS from now on. EEXIST: a page is there. EOPNOTSUPP on kernels without it.
  Errno poison(void* address, std::size_t size);
  void wake(void* address, std::size_t size);

 private:
  bool has_moved(const void* source, const void* destination);

  int fd_ = -1;
  bool only_moves_ = false;
  UffdFeatures features_;
  Pagemap pagemap_;
};

// True when the running kernel's UFFDIO_MOVE is safe: 6.12.43 and later 6.12s, or 6.17 and later.
bool kernel_move_is_known_good(int major, int minor, int patch);

}  // namespace polder::os
