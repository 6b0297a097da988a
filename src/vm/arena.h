// The address space the library owns, reserved once at start and laid out in one piece, so that a sampler that walks
// addresses upwards never counts a moved page twice:
//
//   | guard | metadata (arrays, pool) | guard | staging and buffers | guard | arena (block aligned) | guard |
//
// Nothing is accessible at first: PROT_NONE costs neither swap accounting nor an mlockall. The arena is committed in
// chunks of 32 MiB as runs are handed out; guards never are, so that what runs over an end of the arena, or of the
// library's own state, faults there. The reservation lies at a random place (os::Placement).
//
// Thread-safe; commit() makes system calls and takes no lock.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/errno.h"
#include "base/units.h"
#include "vm/run.h"

namespace polder {

class Arena {
 public:
  static constexpr std::size_t kDefaultSize = std::size_t{1} << 40;
  static constexpr std::size_t kSmallestSize = std::size_t{1} << 32;
  static constexpr std::size_t kChunkSize = std::size_t{32} << 20;
  static constexpr std::size_t kGuardSize = kBlockSize;

  // Bytes of metadata and of staging that precede an arena of the given size.
  struct Layout {
    std::size_t metadata = 0;
    std::size_t staging = 0;
  };

  Arena() = default;
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  // Reserves `wanted` bytes of arena (a multiple of kChunkSize) and what `layout_for` asks for that size, halving the
  // size down to `smallest` while the kernel, RLIMIT_AS (of which at most half is taken) or strict overcommit refuse.
  // ENOMEM when not even that fits.
  Errno reserve(std::size_t wanted, std::size_t smallest, Layout (*layout_for)(std::size_t arena_size));

  char* base() const { return base_; }
  std::size_t size() const { return size_; }
  PageCount pages() const { return pages_down(size_); }
  char* metadata() const;
  std::size_t metadata_size() const { return layout_.metadata; }
  char* staging() const;
  std::size_t staging_size() const { return layout_.staging; }

  bool contains(const void* pointer) const {
    return reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(base_) < size_;
  }
  // Precondition: contains(pointer).
  PageId page_of(const void* pointer) const {
    return {
        static_cast<std::uint32_t>(static_cast<std::size_t>(static_cast<const char*>(pointer) - base_) >> kPageShift)};
  }
  char* address(PageId page) const { return base_ + (std::size_t{page.value} << kPageShift); }
  char* address(GranuleId granule) const { return base_ + (std::size_t{granule.value} << kGranuleShift); }
  char* address(BlockId block) const { return base_ + (std::size_t{block.value} << kBlockShift); }

  // Makes the run's chunks accessible; the number of chunks that were not before. ENOMEM under strict overcommit or at
  // vm.max_map_count.
  Result<std::size_t> commit(Run run);
  // How many chunks that would be now.
  std::size_t uncommitted_chunks(Run run) const;

 private:
  std::atomic<std::uint64_t>& committed_word(std::size_t chunk) const;
  bool is_committed(std::size_t chunk) const;

  char* bitmap() const { return reservation_ + kGuardSize; }

  char* reservation_ = nullptr;  // immutable after init, as all but the bitmap
  std::size_t reserved_ = 0;
  Layout layout_;
  char* base_ = nullptr;
  std::size_t size_ = 0;
  // Bit per chunk. Atomic: set after the commit succeeded (release), read without a lock (acquire). Those of the first
  // 2 GiB lie here, so that few processes touch the others.
  mutable std::atomic<std::uint64_t> first_committed_{0};
  std::atomic<std::uint64_t>* committed_ = nullptr;
};

}  // namespace polder
