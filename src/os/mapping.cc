#include "os/mapping.h"

#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "base/units.h"
#include "os/file.h"
#include "os/sanitizer.h"
#include "os/syscall.h"
#include "os/thread.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace polder::os {
namespace {

// PIDFD_SELF_THREAD of linux/fcntl.h (6.14): the calling thread, and so its address space, where a pidfd is asked for.
constexpr int kPidfdSelf = -10000;

// The kernel takes 1024 at most. Measured (single pages, the other cpu running us), µs a page by batch of 1 / 8 / 64 /
// 256 / 1024: 10 / 3.6 / 1.7 / 0.9 / 1.5.
constexpr std::size_t kDiscardBatch = 256;

bool page_aligned(const void* address, std::size_t size) {
  return size != 0 && (reinterpret_cast<std::uintptr_t>(address) | size) % kPageSize == 0;
}

// Above the shadow of sanitizers, below where programs and their libraries are loaded: 2^25 places for 2 MiB each.
constexpr std::uintptr_t kLowestRandom = std::uintptr_t{1} << 44;
constexpr std::uintptr_t kHighestRandom = std::uintptr_t{0x55} << 40;
constexpr unsigned kRandomTries = 4;
constexpr int kFixedNoReplace = 0x100000;  // MAP_FIXED_NOREPLACE, since 4.17

bool randomization_is_on() {
  constexpr long kAsk = 0xffffffff;
  const long personality = system_call(SYS_personality, kAsk);
  return !kThreadSanitizer && personality >= 0 && (personality & ADDR_NO_RANDOMIZE) == 0;
}

// Under ThreadSanitizer through its interceptors, which forget what the addresses held before.
Result<char*> map(std::size_t size, int protection, int flags, int fd) {
  if constexpr (kThreadSanitizer) {
    const ErrnoGuard guard;
    void* const address = ::mmap(nullptr, size, protection, flags, fd, 0);
    return address == MAP_FAILED ? failure<char*>(errno) : success(static_cast<char*>(address));
  }
  const long result = system_call(SYS_mmap, nullptr, size, protection, flags, fd, 0);
  if (result < 0 && result > -4096) return failure<char*>(static_cast<int>(-result));
  return success(reinterpret_cast<char*>(result));
}

void unmap(void* address, std::size_t size) {
  const ErrnoGuard guard;
  const long result = kThreadSanitizer ? ::munmap(address, size) : ::syscall(SYS_munmap, address, size);
  POLDER_CHECK(result == 0, "munmap refused", address, size, errno);
}

// Null when nothing was free in a few random places.
char* reserve_at_random(std::size_t size, std::size_t alignment) {
  constexpr std::size_t kRange = kHighestRandom - kLowestRandom;
  if (size > kRange || alignment > kRange - size || !randomization_is_on()) return nullptr;
  const std::uint64_t places = (kRange - size) / alignment;
  for (unsigned tries = 0; tries < kRandomTries; ++tries) {
    std::uint64_t random;
    random_bytes(&random, sizeof random);
    const std::uintptr_t wanted =
        ((kLowestRandom + alignment - 1) & ~(std::uintptr_t{alignment} - 1)) + random % places * alignment;
    const long result = system_call(SYS_mmap, wanted, size, PROT_NONE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | kFixedNoReplace, -1, 0);
    if (result < 0 && result > -4096) continue;
    auto* const start = reinterpret_cast<char*>(result);
    if (static_cast<std::uintptr_t>(result) == wanted) return start;
    unmap(start, size);  // to a kernel before 4.17 the address is a hint
  }
  return nullptr;
}

Errno advise(void* address, std::size_t size, int advice) {
  return as_errno(uninterrupted_call(SYS_madvise, address, size, advice));
}

// Whether process_madvise(2) does not drop our own pages. Relaxed: any thread may find out again.
constinit std::atomic<bool> batched_discard_refused{false};

// Drops ranges one call each, all of them whatever happens; the first error.
Errno discard_each(const iovec* ranges, std::size_t count) {
  Errno first = kOk;
  for (std::size_t i = 0; i < count; ++i) {
    const Errno error = discard(ranges[i].iov_base, ranges[i].iov_len);
    if (first.ok()) first = error;
  }
  return first;
}

// Drops `count` disjoint ranges, changing the array as it goes: all of them whatever happens; the first error.
Errno discard_batch(iovec* ranges, std::size_t count) {
  Errno first = kOk;
  const auto note = [&first](Errno error) {
    if (first.ok()) first = error;
  };
  while (count != 0) {
    if (batched_discard_refused.load(std::memory_order_relaxed) || count == 1) {
      note(discard_each(ranges, count));
      break;
    }
    const long result = system_call(SYS_process_madvise, kPidfdSelf, ranges, count, MADV_DONTNEED, 0);
    // Refused: if the first range goes alone, the kernel does not do this at all; else the range is at fault (the program has
    // locked some of it).
    if (result <= 0) {
      const bool alone = advise(ranges->iov_base, ranges->iov_len, MADV_DONTNEED).ok();
      if (!alone) note(discard(ranges->iov_base, ranges->iov_len));
      if (alone && result != -EINTR && result != -EAGAIN && result != -ENOMEM) {
        batched_discard_refused.store(true, std::memory_order_relaxed);
      }
      ++ranges;
      --count;
      continue;
    }
    // The kernel stops short after 2 GiB, or where a range failed.
    auto done = static_cast<std::size_t>(result);
    while (count != 0 && done >= ranges->iov_len) {
      done -= ranges->iov_len;
      ++ranges;
      --count;
    }
    if (done != 0) {
      ranges->iov_base = static_cast<char*>(ranges->iov_base) + done;
      ranges->iov_len -= done;
    }
  }
  return first;
}

}  // namespace

std::size_t page_size() {
  const ErrnoGuard guard;
  return static_cast<std::size_t>(::getauxval(AT_PAGESZ));
}

Result<char*> reserve(std::size_t size, std::size_t alignment, Placement placement) {
  POLDER_CHECK(size != 0 && size % kPageSize == 0, "reserve: size", size);
  POLDER_CHECK(alignment >= kPageSize && (alignment & (alignment - 1)) == 0, "reserve: alignment", alignment);
  if (placement == Placement::random) {
    if (char* const start = reserve_at_random(size, alignment); start != nullptr) return success(start);
  }
  const std::size_t slack = alignment - kPageSize;
  if (size > SIZE_MAX - slack) return failure<char*>(ENOMEM);
  const Result<char*> mapped = map(size + slack, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
  if (!mapped.ok()) return mapped;

  const std::size_t before = -reinterpret_cast<std::uintptr_t>(mapped.value) & (alignment - 1);
  char* const start = mapped.value + before;
  if (before != 0) unmap(mapped.value, before);
  if (slack != before) unmap(start + size, slack - before);
  return success(start);
}

void release(void* address, std::size_t size) {
  POLDER_CHECK(page_aligned(address, size), "release: range", address, size);
  unmap(address, size);
}

Errno commit(void* address, std::size_t size) {
  POLDER_CHECK(page_aligned(address, size), "commit: range", address, size);
  return as_errno(system_call(SYS_mprotect, address, size, PROT_READ | PROT_WRITE));
}

Result<char*> map_private(std::size_t size) {
  POLDER_CHECK(size != 0 && size % kPageSize == 0, "map_private: size", size);
  return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
}

Result<char*> map_shared_file(int fd, std::size_t size) {
  POLDER_CHECK(size != 0 && size % kPageSize == 0, "map_shared_file: size", size);
  return map(size, PROT_READ | PROT_WRITE, MAP_SHARED, fd);
}

Errno discard(void* address, std::size_t size) {
  POLDER_DCHECK(page_aligned(address, size), "discard: range", address, size);
  const Errno error = advise(address, size, MADV_DONTNEED);
  constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED, since 5.18: the program has locked some of it
  return error == Errno(EINVAL) ? advise(address, size, kDontNeedLocked) : error;
}

void unload(void* address, std::size_t size) {
  POLDER_DCHECK(page_aligned(address, size), "unload: range", address, size);
  system_call(SYS_madvise, address, size, MADV_DONTNEED);
}

Errno discard_all(const iovec* ranges, std::size_t count) {
  iovec batch[kDiscardBatch];
  std::size_t filled = 0;
  Errno first = kOk;
  for (std::size_t i = 0; i < count; ++i) {
    POLDER_DCHECK(page_aligned(ranges[i].iov_base, ranges[i].iov_len), "discard_all: range", ranges[i].iov_base,
                  ranges[i].iov_len);
    if (filled != 0 && static_cast<char*>(batch[filled - 1].iov_base) + batch[filled - 1].iov_len ==
                           static_cast<char*>(ranges[i].iov_base)) {
      batch[filled - 1].iov_len += ranges[i].iov_len;
      continue;
    }
    if (filled == kDiscardBatch) {
      const Errno error = discard_batch(batch, filled);
      if (first.ok()) first = error;
      filled = 0;
    }
    batch[filled++] = ranges[i];
  }
  const Errno error = discard_batch(batch, filled);
  return first.ok() ? error : first;
}

Errno install_guards(void* address, std::size_t size) {
  POLDER_DCHECK(page_aligned(address, size), "install_guards: range", address, size);
  return advise(address, size, MADV_GUARD_INSTALL);
}

Errno remove_guards(void* address, std::size_t size) {
  POLDER_DCHECK(page_aligned(address, size), "remove_guards: range", address, size);
  return advise(address, size, MADV_GUARD_REMOVE);
}

Errno set_inheritance(void* address, std::size_t size, Inheritance inheritance) {
  POLDER_DCHECK(page_aligned(address, size), "set_inheritance: range", address, size);
  return advise(address, size, inheritance == Inheritance::copied ? MADV_DOFORK : MADV_DONTFORK);
}

void advise_huge_pages(void* address, std::size_t size, HugePages policy) {
  static_cast<void>(advise(address, size, policy == HugePages::never ? MADV_NOHUGEPAGE : MADV_HUGEPAGE));
}

namespace {

// Variables, not texts, which runtime/layout.ld puts where nobody reads.
constexpr char kHugePagesPath[] = "/sys/kernel/mm/transparent_hugepage/enabled";
constexpr char kAlwaysChosen[] = "[always]";
constexpr char kMadviseChosen[] = "[madvise]";

}  // namespace

HugePageMode huge_page_mode() {
  constinit static std::atomic<unsigned char> known{0};  // the mode and one; any thread may find it out
  if (const unsigned char mode = known.load(std::memory_order_relaxed); mode != 0) {
    return static_cast<HugePageMode>(mode - 1);
  }
  char text[64];
  const std::string_view modes(text, read_start(kHugePagesPath, text, sizeof text));
  HugePageMode mode = HugePageMode::never;
  if (modes.find(kAlwaysChosen) != std::string_view::npos) mode = HugePageMode::unasked;
  if (modes.find(kMadviseChosen) != std::string_view::npos) mode = HugePageMode::advised;
  known.store(static_cast<unsigned char>(static_cast<unsigned>(mode) + 1), std::memory_order_relaxed);
  return mode;
}

bool page_tables_are_shadowed() {
  enum Answer : std::uint8_t { kUnknown, kNo, kYes };
  constinit static std::atomic<Answer> known{kUnknown};  // any thread may find it out
  if (const Answer answer = known.load(std::memory_order_relaxed); answer != kUnknown) return answer == kYes;
  constexpr std::size_t kPages = 16;
  constexpr std::uint64_t kShadowedNs = 1000;  // measured: 4400; else 50
  const Result<char*> memory = map_private(kPages * kPageSize);
  if (!memory.ok()) return false;
  std::uint64_t shortest = UINT64_MAX;
  if (populate_writable(memory.value, kPages * kPageSize).ok()) {
    for (std::size_t page = 0; page < kPages; ++page) {
      const std::uint64_t begin = monotonic_ns();
      *static_cast<volatile char*>(memory.value + page * kPageSize) = 1;
      shortest = std::min(shortest, monotonic_ns() - begin);
    }
  }
  release(memory.value, kPages * kPageSize);
  const bool shadowed = shortest > kShadowedNs && shortest != UINT64_MAX;
  known.store(shadowed ? kYes : kNo, std::memory_order_relaxed);
  return shadowed;
}

Errno populate_writable(void* address, std::size_t size) {
  POLDER_DCHECK(page_aligned(address, size), "populate_writable: range", address, size);
  return advise(address, size, MADV_POPULATE_WRITE);
}

bool is_readable(const void* address) {
  // The kernel reads the set before it looks at what to do with it (kernel/signal.c).
  constexpr int kNothingToDo = -1;
  return system_call(SYS_rt_sigprocmask, kNothingToDo, address, nullptr, std::size_t{8}) == -EINVAL;
}

namespace {

// Whether each page is there, as `visit` learns one after the other until it returns false. False when the kernel does not
// say.
template <typename Visit>
bool for_each_presence(const void* address, std::size_t size, Visit visit) {
  constexpr std::size_t kPages = 128;
  unsigned char present[kPages];
  for (std::size_t done = 0; done < size; done += kPages * kPageSize) {
    const std::size_t length = std::min(size - done, kPages * kPageSize);
    if (system_call(SYS_mincore, static_cast<const char*>(address) + done, length, present) != 0) return false;
    for (std::size_t page = 0; page < (length + kPageSize - 1) / kPageSize; ++page) {
      if (!visit((present[page] & 1) != 0)) return true;
    }
  }
  return true;
}

}  // namespace

bool mostly_untouched(const void* address, std::size_t size) {
  std::size_t touched = 0;
  const bool known = for_each_presence(address, size, [&touched](bool present) {
    touched += present;
    return true;
  });
  return known && touched < size / kPageSize / 2;
}

PresentPages first_present(const void* address, std::size_t size, std::size_t least) {
  PresentPages found;
  const bool known = for_each_presence(address, size, [&found, least](bool present) {
    if (present) {
      ++found.count;
    } else if (found.count >= least) {
      return false;
    } else {
      found = {found.first + found.count + 1, 0};
    }
    return true;
  });
  if (!known) return {0, size / kPageSize};
  return found.count >= least ? found : PresentPages{};
}

std::uintptr_t program_break() {
  const long result = system_call(SYS_brk, nullptr);
  return result > 0 ? static_cast<std::uintptr_t>(result) : 0;
}

std::size_t address_space_limit() {
  rlimit limit{};
  if (system_call(SYS_prlimit64, 0, RLIMIT_AS, nullptr, &limit) < 0) return SIZE_MAX;
  return limit.rlim_cur == RLIM_INFINITY ? SIZE_MAX : static_cast<std::size_t>(limit.rlim_cur);
}

}  // namespace polder::os
