// The heap: objects of any size out of the arena, to the caller's malloc and free. Owns the granule map, the central
// lists of every size class, the spans, the large runs and the list of thread caches.
//
// Who calls: the malloc ABI of the runtime, on any thread of the program. Service threads only free_pages().
//
// The life of an allocation
//   1  ThreadCache::try_allocate pops a pointer from the thread's magazine: no lock, no atomic, no memory touched
//   2  it is empty: allocate_slow refills half a magazine from a central list of the class, under its lock
//   3  no slab of the class has a free object: a new slab's run comes from the buddy, its pages from Backing::provide
//   4  no memory for it: what the heap keeps idle goes back, one more try, then null
// The life of a free
//   1  the granule map gives the kind of the pointer's granule, ThreadCache::try_free pushes into that kind's magazine
//   2  it is full: free_slow flushes its older half to the central lists; slabs without objects go back to the buddy
//   3  it is no slab: a span stays with the thread (span_cache.h) or, like a large run, is discarded and given back;
//      anything else is a misuse that is reported
//
// A hardened heap (heap_hardened.cc) has no objects in magazines, so that everything goes the slow ways:
//   allocate   a random one of the slab's free objects
//   free       misuse is told at once. The object is zeroed, or if it is whole pages becomes inaccessible, and waits in
//              quarantine (quarantine.h); when it leaves it must still be zero
//   overflow   the last page of a slab, and a page behind every span and every large run, is inaccessible
//
// Invariants: neither malloc nor free reads or writes the memory that is handed out (it may be evicted), but free in a
// hardened heap; only allocate_zeroed and reallocate touch it, for the caller, holding no lock. No lock is held while
// Backing is called.
//
// For the runtime: keep a `ThreadCache*` per thread, initially ThreadCache::empty(). The hot paths are
//
//   malloc  if (size <= kLargestSmall)
//             if (void* object = cache->try_allocate(size)) return object;
//           slow: make a cache if this thread still has the empty one, then heap.allocate(cache, size)
//   free    if (pointers.contains(pointer) && cache->try_free(pointers.kind(pointer), pointer)) return;
//           slow: pointers outside the arena are the runtime's; else heap.free(cache, pointer)
//
// Every function takes the calling thread's cache, or ThreadCache::empty(): then it works without one, only slower.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "heap/centrals.h"
#include "heap/granule_map.h"
#include "heap/hardening.h"
#include "heap/large.h"
#include "heap/object_extents.h"
#include "heap/quarantine.h"
#include "heap/run_source.h"
#include "heap/size_class.h"
#include "heap/spans.h"
#include "heap/thread_cache.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "vm/arena.h"
#include "vm/backing.h"
#include "vm/buddy.h"
#include "vm/metadata.h"

namespace polder {

class Heap {
 public:
  // `space` must have metadata_bytes() left. All parts outlive the heap. Aborts with a report when the kernel refuses
  // the tables' memory.
  Heap(const Arena& arena, Buddy& buddy, Backing& backing, MetadataPool& pool, MetadataSpace& space,
       Hardening hardening, RunSource::Clock clock = os::monotonic_ns, const Processors& processors = {});
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // What the constructor takes from the metadata space for an arena of that size.
  static std::size_t metadata_bytes(GranuleCount granules) { return GranuleMap::metadata_bytes(granules); }

  // At least `size` bytes, aligned to 16; an object also for size 0. Null without memory. May wait for reclaim.
  void* allocate(ThreadCache* cache, std::size_t size) {
    if (size <= kLargestSmall) [[likely]] {
      if (void* const object = cache->try_allocate(size); object != nullptr) [[likely]]
        return object;
    }
    return allocate_slow(cache, size);
  }

  // The same, aligned to `alignment`, any power of two.
  void* allocate_aligned(ThreadCache* cache, std::size_t size, std::size_t alignment);

  // The same as allocate(), the first `size` bytes zero.
  void* allocate_zeroed(ThreadCache* cache, std::size_t size);

  // Precondition: inside the arena. Ends the program with a report if it is not an object in use, as far as that can be
  // told: at once for addresses that are no object, for spans and large runs, and for the object that the thread freed of
  // this class just before; for other objects freed twice where the second free, or the first, is flushed. Never for one
  // that was handed out again between the two.
  void free(ThreadCache* cache, void* pointer) {
    if (cache->try_free(map_.kind(pointer), pointer)) [[likely]]
      return;
    free_slow(cache, pointer);
  }

  // Preconditions: inside the arena, size > 0. Null without memory; the old object is untouched then.
  void* reallocate(ThreadCache* cache, void* pointer, std::size_t size);

  // Bytes that may be used at the pointer, an object in use inside the arena.
  std::size_t usable_size(const void* pointer) const;

  // For try_free.
  const PointerKinds& pointers() const { return map_.pointers(); }

  // What is free and resident, for the pager.
  FreePages& free_pages() { return runs_; }
  const ObjectMap& objects() const { return extents_; }

  // A cache for one thread, perhaps with objects that another left in it; null without memory (the thread goes on with the
  // empty one).
  ThreadCache* create_cache();
  // Flushes everything in it, or keeps it for the next thread if it is little. Its thread must not use it any more. Not for
  // the empty cache.
  void destroy_cache(ThreadCache* cache);

  // Gives back what is idle: the quarantine, the objects in this cache and in those that wait for a thread, slabs without
  // objects, resident pages of free runs. Pages whose address space went back to the buddy or was purged.
  GranuleCount trim(ThreadCache* cache = ThreadCache::empty());

  // Around fork: takes every lock of the heap in rank order; those of the vm layer come after it and are the caller's
  // affair. In the child the caller's thread is the only one, and its cache, if it has any, the `survivor`; what other
  // threads had in theirs, perhaps half-way in or out, is lost to it. Caches that wait for a thread do so there, too.
  void lock_for_fork() POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void unlock_after_fork_parent() POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void reset_after_fork_child(ThreadCache* survivor) POLDER_NO_THREAD_SAFETY_ANALYSIS;

  struct ClassStatistics {
    std::size_t object_size = 0;
    std::uint64_t slabs = 0;
    std::uint64_t objects = 0;     // that those slabs hold
    std::uint64_t handed_out = 0;  // to threads: in use, or in their caches, or in those that they left to others
    std::uint64_t refills = 0;
    std::uint64_t flushes = 0;
  };
  struct Statistics {
    ClassStatistics classes[kSizeClassCount];  // in ascending order of size
    std::size_t small_bytes = 0;               // handed out, in slabs
    PageCount slab_pages;
    std::uint64_t large_runs = 0;  // and spans
    PageCount large_pages;
    std::uint64_t thread_caches = 0;
  };
  void statistics(Statistics& statistics) const;

  const Quarantine& quarantine() const { return quarantine_; }

  // Walks every slab, large run and the buddy, and checks their invariants. Any thread, at any time; holds the heap's
  // locks meanwhile.
  void verify() const POLDER_NO_THREAD_SAFETY_ANALYSIS;

 private:
  void* allocate_slow(ThreadCache* cache, std::size_t size);
  void* allocate_large(ThreadCache* cache, std::size_t size, std::size_t alignment, RunContents contents,
                       Buddy::Fit fit = Buddy::Fit::tight);
  void free_span(ThreadCache* cache, void* pointer, GranuleKind kind);
  // Of blocks of that kind, in which the pointer is.
  Spans& spans_of(GranuleKind kind) { return kind == kSmallSpans.kind ? small_spans_ : spans_; }
  const Spans& spans_of(GranuleKind kind) const { return kind == kSmallSpans.kind ? small_spans_ : spans_; }
  const SpanUnit& span_unit_for(std::size_t size, std::size_t alignment) const;
  void free_kept(void* span) { spans_of(map_.kind(span)).free_kept(span); }
  void free_slow(ThreadCache* cache, void* pointer);
  void* allocate_small_slow(ThreadCache* cache, SizeClass size_class);
  void* allocate_small(ThreadCache* cache, SizeClass size_class) {
    if (void* const object = cache->try_allocate(size_class); object != nullptr) [[likely]]
      return object;
    return allocate_small_slow(cache, size_class);
  }

  // Up to `wanted` objects, ascending per slab; 0 without memory.
  unsigned take(ThreadCache* cache, SizeClass size_class, void** objects, unsigned wanted);
  void give(SizeClass size_class, void* const* objects, unsigned count);
  Slab* create_slab(SizeClass size_class);
  Occupancy slab_occupancy() const;
  GranuleCount release_slabs(Slab* slabs);
  // The spans that the thread keeps, caches that wait for a thread, the quarantine, empty slabs and dirty runs; whether
  // there were any.
  bool give_up_idle(ThreadCache* cache);
  bool free_kept_spans(ThreadCache& cache);
  void enlist_locked(ThreadCache& cache) POLDER_REQUIRES(caches_mutex_);
  void delist_locked(ThreadCache& cache) POLDER_REQUIRES(caches_mutex_);
  ThreadCache* take_over_cache();
  // Whether the next thread shall have it.
  bool hand_over_locked(ThreadCache& cache) POLDER_REQUIRES(caches_mutex_);
  // Caches that wait for a thread: all, or none if any thread took or left one since the last call.
  enum class Idle : unsigned char { all, unless_used };
  // Whether there were any.
  bool end_idle_caches(Idle which);
  GranuleCount give_up_idle_granules();
  // What a hardened heap does in their places.
  void free_hardened(void* pointer);
  void clear(void* object, std::size_t size);
  void put_into_quarantine(const Quarantine::Entry& entry);
  void end_quarantine(const Quarantine::Entry& entry);
  // Whether anything was in quarantine.
  bool empty_quarantine();
  void seed();
  Random* random_of(SizeClass size_class) {
    return randoms_ == nullptr ? nullptr : &(*randoms_)[size_class.index - 1U];
  }
  // The page behind the objects of a slab that begins there.
  Run slab_guard(SizeClass size_class, GranuleId first) const;
  void flush(ThreadCache& cache, SizeClass size_class);
  void flush_all(ThreadCache& cache);
  void end_large_magazines(ThreadCache& cache);
  void sweep(ThreadCache& cache);
  std::size_t usable_size(const char* operation, GranuleKind kind, const void* pointer) const;
  void* move_span(void* pointer, std::size_t usable, std::size_t size);
  [[gnu::noinline]] void* resize_large(GranuleKind kind, void* pointer, std::size_t usable, std::size_t size);
  // Ends the program unless the pointer is the start of an object or a large run, or in a block of spans.
  GranuleKind require_start(const char* operation, const void* pointer) const;
  unsigned largest_magazine(SizeClass size_class) const;

  void lock_own() const POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void unlock_own() const POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void verify_map_locked() const POLDER_NO_THREAD_SAFETY_ANALYSIS;

  GranuleMap map_;  // first: the fast paths read it
  const Hardening hardening_;
  MetadataPool& pool_;
  Backing& backing_;
  Buddy& buddy_;
  RunSource runs_;
  ObjectExtents extents_{map_};
  Spans spans_;
  Spans small_spans_;
  LargeRuns large_;
  Quarantine quarantine_;
  std::array<Random, kSizeClassCount>* randoms_ = nullptr;  // each guarded as its class's list; null unless hardened

  mutable os::Mutex caches_mutex_{LockRank::thread_caches};
  ThreadCache* caches_ POLDER_GUARDED_BY(caches_mutex_) = nullptr;
  ThreadCache* idle_caches_ POLDER_GUARDED_BY(caches_mutex_) = nullptr;  // handed over, in no other list
  static constexpr unsigned kMostIdleCaches = 4;
  std::atomic<unsigned> idle_cache_count_{0};  // written under caches_mutex_; atomic: read without, to spare the lock
  bool idle_caches_used_ POLDER_GUARDED_BY(caches_mutex_) = false;  // since end_idle_caches()
  std::atomic<std::uint64_t> cache_count_{0};  // written under caches_mutex_; atomic: read without, for an estimate

  Centrals centrals_;  // set_shared() under caches_mutex_
};

}  // namespace polder
