// The central lists of every size class: one each as long as one thread allocates, as many as there are processors (at most
// kMost) from the second thread on. A thread takes from the list of the processor it runs on, so that threads which run at
// the same time neither wait for each other, nor write to the same slab headers, nor get neighbouring objects. What is
// freed goes to the list whose slab it is.
//
// A list without free objects takes over a slab of another's before there is a new one: the heap has no more slabs than
// with one list, and a slab follows the processors that use it.
//
// Measured on two processors, at the same peak of memory: larson 14.3 ns an operation in place of 18.5, replace_threads 24.1
// in place of 24.4 to 21.7 in place of 26.2.
//
// Source: the per-processor heaps of E. Berger et al., "Hoard" (ASPLOS 2000), without a bound on what a list may hold.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "heap/central.h"
#include "os/thread.h"
#include "vm/metadata.h"

namespace polder {

// Where threads run: a heap asks at every refill from the second thread on.
struct Processors {
  unsigned (*limit)() = os::cpu_limit;      // all numbers are below
  unsigned (*current)() = os::current_cpu;  // number of the caller's
};

class Centrals {
 public:
  static constexpr unsigned kMost = 16;

  Centrals(GranuleMap& map, MetadataPool& pool, Hardening hardening, const Processors& processors);

  // Whether more than one thread allocates. Always one list in a hardened heap, which chooses objects at random among all,
  // and fewer than there are processors without memory for them. Not by several threads at once.
  void set_shared(bool shared);

  // As Central's, of the caller's list.
  unsigned take(SizeClass size_class, void** objects, unsigned wanted, Random* random);
  unsigned adopt(Slab* slab, void** objects, unsigned wanted, Random* random);
  // Slabs that are empty now, but for spares, linked by `next`.
  Slab* give(SizeClass size_class, void* const* objects, unsigned count, Central::Spare spare);
  Slab* give_up_empty();

  // The class's only list, in a hardened heap.
  Central& only(SizeClass size_class) { return list(0, size_class); }
  const Central& only(SizeClass size_class) const { return list(0, size_class); }

  // About as many slabs as the class has: what the caller's list has, times the number of lists.
  std::uint64_t estimated_slabs(SizeClass size_class) const {
    return std::uint64_t{list(own(), size_class).slabs()} * spread_.load(std::memory_order_relaxed);
  }

  // Sums over a class's lists.
  Central::Statistics statistics(SizeClass size_class) const POLDER_NO_THREAD_SAFETY_ANALYSIS;
  Central::Statistics statistics_locked(SizeClass size_class) const POLDER_NO_THREAD_SAFETY_ANALYSIS;

  // All locks, in order. The caller keeps set_shared() away until they are released.
  void lock() const POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void unlock() const POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void reset_in_child() POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void verify_locked() const POLDER_NO_THREAD_SAFETY_ANALYSIS;

 private:
  using Shard = std::array<Central, kSizeClassCount>;  // by class index - 1

  void add(void* storage);
  unsigned own() const {  // shard
    const unsigned spread = spread_.load(std::memory_order_acquire);
    return spread == 1 ? 0 : processors_.current() % spread;
  }
  Central& list(unsigned shard, SizeClass size_class) { return (*shards_[shard])[size_class.index - 1U]; }
  const Central& list(unsigned shard, SizeClass size_class) const { return (*shards_[shard])[size_class.index - 1U]; }
  unsigned shard_of(SizeClass size_class, const void* object) const;

  GranuleMap& map_;
  MetadataPool& pool_;
  const Hardening hardening_;
  const Processors processors_;
  // Shards that exist: they stay. Atomic: release after one is added pairs with acquire by who looks into it.
  std::atomic<unsigned> count_{0};
  unsigned known_processors_ = 0;  // of set_shared() alone
  // Among how many threads choose: 1 or count_. The same pairing.
  std::atomic<unsigned> spread_{1};
  Shard* shards_[kMost] = {};
  alignas(Shard) std::byte first_[sizeof(Shard)];  // the others come from the pool
};

}  // namespace polder
