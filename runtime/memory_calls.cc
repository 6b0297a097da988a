// The system calls that the library takes from the program because they concern memory that it manages.
#include <sys/mman.h>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "os/program_calls.h"
#include "runtime/export.h"
#include "runtime/instance.h"

namespace polder::runtime {
namespace {

// Advice after which the kernel may forget the contents of private anonymous memory.
bool discards(int advice) {
  constexpr int kDontNeedLocked = 24;  // MADV_DONTNEED_LOCKED, since Linux 5.18
  return advice == MADV_DONTNEED || advice == MADV_FREE || advice == kDontNeedLocked;
}

struct Range {
  std::uintptr_t begin;
  std::uintptr_t end;

  bool empty() const { return begin >= end; }
  std::size_t size() const { return end - begin; }
  void* address() const { return reinterpret_cast<void*>(begin); }
};

Range intersection(Range a, Range b) { return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end}; }

Errno pass_on(Range range, int advice) {
  return range.empty() ? kOk : os::pass_madvise(range.address(), range.size(), advice);
}

// Evicted pages of the arena are no mappings of the kernel's, so it could not discard them; and it must not discard
// pages behind the pager's back. Precondition: the range is whole pages.
Errno discard(Range range, int advice) {
  const Range arena{arena_pointers.base(), arena_pointers.base() + arena_pointers.size()};
  const Range managed = intersection(range, arena);
  if (managed.empty()) return pass_on(range, advice);
  if (const Errno error = pass_on({range.begin, managed.begin}, advice); !error.ok()) return error;
  running_manager().program_discard(managed.address(), managed.size());
  return pass_on({managed.end, range.end}, advice);
}

Errno advise(void* address, std::size_t size, int advice) {
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(address);
  const std::size_t padded = (size + kPageSize - 1) & ~(kPageSize - 1);
  const bool well_formed = begin % kPageSize == 0 && padded >= size && begin + padded >= begin && padded != 0;
  if (!well_formed || !manager_runs()) return os::pass_madvise(address, size, advice);
  if (discards(advice)) return discard({begin, begin + padded}, advice);
  const Errno error = os::pass_madvise(address, size, advice);
  if (advice == MADV_DOFORK) running_manager().withhold_evictable();
  return error;
}

}  // namespace
}  // namespace polder::runtime

// madvise(2). Inside the arena, what discards contents does so for resident and for evicted pages alike: they read as zero
// at the next touch. MADV_DOFORK and MADV_DONTFORK mean nothing there once a page can be evicted: fork copies it, a child
// made past fork's handlers does not find it.
extern "C" POLDER_EXPORT int madvise(void* address, std::size_t size, int advice) noexcept {
  const polder::Errno error = polder::runtime::advise(address, size, advice);
  if (error.ok()) return 0;
  errno = error.code();
  return -1;
}
