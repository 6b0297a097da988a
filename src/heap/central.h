// The slabs of one size class that have free objects, between the threads' magazines and the buddy. Refills and flushes
// go through here in batches. Creating and releasing the slabs themselves is the heap's business, outside the lock; of
// several lists of a class, which one is meant is for centrals.h to say.
//
//   lock        LockRank::central, one per list; several at once in ascending order of shard, and of class
//   invariants  a slab is on list `fullness` of its used objects (eighths of the capacity), or on the list of empty
//               slabs, or on none when it has no free object; refills take from the fullest slabs, so that the others
//               have a chance to become empty
#pragma once

#include <atomic>
#include <cstdint>

#include "base/random.h"
#include "heap/granule_map.h"
#include "heap/hardening.h"
#include "heap/size_class.h"
#include "heap/slab.h"
#include "os/mutex.h"

namespace polder {

class alignas(64) Central {
 public:
  void initialise(GranuleMap& map, SizeClass size_class, Hardening hardening, std::uint8_t shard) {
    map_ = &map;
    size_class_ = size_class;
    hardening_ = hardening;
    shard_ = shard;
  }
  // Up to `wanted` free objects, ascending within a slab, or in a hardened heap at random; fewer when there are no more.
  // `random`: of a hardened heap, this list's alone; null otherwise.
  unsigned take(void** objects, unsigned wanted, Random* random) POLDER_EXCLUDES(mutex_);

  // Adds a new slab whose memory is ready, enters it into the granule map, and takes from it.
  unsigned adopt(Slab* slab, void** objects, unsigned wanted, Random* random) POLDER_EXCLUDES(mutex_);

  // Whether to keep an empty slab for the next refill: where there are eight or more, or one that never had more than a page
  // in use; or not at all.
  enum class Spare : unsigned char { cheap, none };
  // Makes objects of this class free, up to the first of another list's slab; the number of them. Slabs that are empty now,
  // but for a spare, are retired from the granule map and put in front of `released` (by `next`). Ends the program with a
  // report when one is free already or no object.
  unsigned give(void* const* objects, unsigned count, Spare spare, Slab** released) POLDER_EXCLUDES(mutex_);

  // Whether one has free objects. Any thread, without the lock: a hint.
  bool has_free() const { return free_objects() != 0; }
  // Makes the slab with the most free objects of another list of the same class one of this list; false where there is none.
  bool take_over(Central& other) POLDER_EXCLUDES(mutex_, other.mutex_);

  // Hardened heaps: an object is no longer in use, but not free before it is given. Ends the program with a report when
  // it is free or in quarantine already, or no object.
  void begin_quarantine(const void* object) POLDER_EXCLUDES(mutex_);
  // Ends the program with a report, as `operation`, unless the object is in use.
  void require_in_use(const char* operation, const void* object) const POLDER_EXCLUDES(mutex_);

  // Retires all empty slabs, as give() does.
  void give_up_empty(Slab** released) POLDER_EXCLUDES(mutex_);

  // Slabs of the list, whether or not they have free objects. Any thread, without the lock.
  std::uint32_t slabs() const { return slabs_.load(std::memory_order_relaxed); }

  struct Statistics {
    std::uint64_t slabs = 0;
    std::uint64_t free_objects = 0;
    std::uint64_t refills = 0;
    std::uint64_t flushes = 0;

    Statistics& operator+=(const Statistics& other) {
      slabs += other.slabs;
      free_objects += other.free_objects;
      refills += other.refills;
      flushes += other.flushes;
      return *this;
    }
  };

  // Checks the lists; the caller holds the mutex.
  void verify_locked() const POLDER_REQUIRES(mutex_);
  Statistics statistics_locked() const POLDER_REQUIRES(mutex_) { return {slabs(), free_objects(), refills_, flushes_}; }

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  static constexpr unsigned kFullnessCount = 8;
  static constexpr unsigned kEmptyList = kFullnessCount;
  static constexpr unsigned kListCount = kFullnessCount + 1;

  static unsigned list_for(const Slab& slab);
  void link_locked(Slab* slab, unsigned list) POLDER_REQUIRES(mutex_);
  void unlink_locked(Slab* slab) POLDER_REQUIRES(mutex_);
  void relist_locked(Slab* slab) POLDER_REQUIRES(mutex_);
  unsigned take_locked(void** objects, unsigned wanted, Random* random) POLDER_REQUIRES(mutex_);
  bool keeps_locked(const Slab& empty, Spare spare) const POLDER_REQUIRES(mutex_);
  Slab* slab_in_use_locked(const char* operation, const void* object, unsigned* index) const POLDER_REQUIRES(mutex_);
  void retire_locked(Slab* slab, Slab** released) POLDER_REQUIRES(mutex_);
  bool take_over_locked(Central& other) POLDER_REQUIRES(mutex_, other.mutex_);

  std::uint64_t free_objects() const { return free_objects_.load(std::memory_order_relaxed); }
  // Modulo 2^64: for taking away too.
  void add_free_objects(std::uint64_t added) POLDER_REQUIRES(mutex_) {
    free_objects_.store(free_objects() + added, std::memory_order_relaxed);
  }

  GranuleMap* map_ = nullptr;  // immutable after initialise
  Slab* lists_[kListCount] POLDER_GUARDED_BY(mutex_) = {};
  std::uint64_t refills_ POLDER_GUARDED_BY(mutex_) = 0;
  std::uint64_t flushes_ POLDER_GUARDED_BY(mutex_) = 0;
  std::atomic<std::uint64_t> free_objects_{0};  // atomic: written under the mutex, read without; this too:
  std::atomic<std::uint32_t> slabs_{0};
  std::uint32_t empty_count_ POLDER_GUARDED_BY(mutex_) = 0;
  mutable os::Mutex mutex_{LockRank::central};
  SizeClass size_class_;    // immutable after initialise
  Hardening hardening_{};   // immutable after initialise
  std::uint8_t shard_ = 0;  // immutable after initialise: which of the class's lists
};
#if !defined(POLDER_VERIFY_BUILD)
static_assert(sizeof(Central) == 128, "two cache lines");
#endif

}  // namespace polder
