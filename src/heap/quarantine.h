// Where freed objects of a hardened heap wait before they may be handed out again: a use after free then meets zeros,
// or nothing, not another object. Knows objects by address and size only; never touches them.
//
//   order   first in, first out, but for chance: one of the oldest quarter leaves, so that nobody can tell when an
//           object comes back
//   bounds  bytes: a sixteenth of what the heap has in use, between 1 and 64 MiB; pages that are sealed cost no memory
//           but their address space, and count a sixteenth of it. Entries: 16 Ki (256 KiB of metadata). What is more
//           than half of the bytes by itself does not wait
//   lock    LockRank::large; nothing is called while it is held but the metadata pool, to grow
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/random.h"
#include "base/units.h"
#include "os/mutex.h"
#include "vm/metadata.h"

namespace polder {

class Quarantine {
 public:
  static constexpr std::uint32_t kMostEntries = 16 << 10;

  // An object of a slab, or a stretch of pages.
  struct Entry {
    void* object;
    std::uint32_t amount;  // bytes of an object, pages of a stretch
    std::uint32_t space;   // where a large run's address space begins, a granule

    static constexpr std::uint32_t kObject = UINT32_MAX;  // in place of `space`

    bool is_object() const { return space == kObject; }
    std::size_t sealed() const { return is_object() ? 0 : bytes(PageCount{amount}); }
    std::size_t weight() const { return is_object() ? amount : sealed() / kSealedPart; }
  };

  static constexpr std::size_t kSealedPart = 16;

  explicit Quarantine(MetadataPool& pool) : pool_(pool) {}

  // What may wait in a heap that has so many bytes in use.
  static std::size_t bound(std::size_t bytes_in_use);

  // Before anything is added, and in a forked child.
  void seed(const Random::Seed& seed) POLDER_NO_THREAD_SAFETY_ANALYSIS { random_.seed(seed); }

  // `in_use`: bytes of address space that the heap has in use, what is sealed included.

  // Takes an entry in. What leaves for it where there is no room for more, or the entry itself: the caller releases it.
  std::optional<Entry> add(const Entry& entry, std::size_t in_use) POLDER_EXCLUDES(mutex_);
  // Takes an entry out while those that wait weigh more than they may.
  std::optional<Entry> take_excess(std::size_t in_use) POLDER_EXCLUDES(mutex_);
  // Takes any entry out.
  std::optional<Entry> take() POLDER_EXCLUDES(mutex_);

  struct Statistics {
    std::uint64_t entries = 0;
    std::size_t weight = 0;
  };
  Statistics statistics() const POLDER_EXCLUDES(mutex_);

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  Entry& slot_locked(std::uint32_t age) POLDER_REQUIRES(mutex_) { return ring_[(oldest_ + age) % capacity_]; }
  Entry take_locked() POLDER_REQUIRES(mutex_);
  std::size_t bound_locked(std::size_t in_use) const POLDER_REQUIRES(mutex_);
  void grow_locked() POLDER_REQUIRES(mutex_);

  MetadataPool& pool_;
  mutable os::Mutex mutex_{LockRank::large};
  Entry* ring_ POLDER_GUARDED_BY(mutex_) = nullptr;
  std::uint32_t capacity_ POLDER_GUARDED_BY(mutex_) = 0;  // a power of two
  std::uint32_t oldest_ POLDER_GUARDED_BY(mutex_) = 0;
  std::uint32_t count_ POLDER_GUARDED_BY(mutex_) = 0;
  std::size_t weight_ POLDER_GUARDED_BY(mutex_) = 0;
  std::size_t sealed_ POLDER_GUARDED_BY(mutex_) = 0;  // bytes of address space
  Random random_ POLDER_GUARDED_BY(mutex_);
};

}  // namespace polder
