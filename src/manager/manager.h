// The composition root: one plain object that owns one of each part and wires them. A process under the preload library
// has one; tests make as many as they like.
//
//   Arena ─ MetadataSpace, MetadataPool ─ Budget ─ Buddy
//     └─ Pager (page table, pageblocks, store, fault loop, reclaimer) ── Backing ──► Heap
//
// Everything is thread-safe except construction and destruction. Nothing here allocates from the heap it manages.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/statistics_segment.h"
#include "heap/heap.h"
#include "os/io_engine.h"
#include "pager/pager.h"
#include "vm/arena.h"
#include "vm/buddy.h"
#include "vm/budget.h"
#include "vm/metadata.h"

namespace polder {

struct ManagerOptions {
  std::size_t memory_limit_bytes = 0;  // 0: none
  std::uint32_t watermark_scale = kDefaultWatermarkScale;
  const char* swap_directory = "/var/tmp";  // must stay valid
  std::uint64_t swap_bytes = 0;             // 0: what the filesystem has free less 5 %
  os::IoBackend io = os::IoBackend::automatic;
  PolicyKind policy = kDefaultPolicy;
  StatisticsSegment* statistics = nullptr;  // null: counted privately
  void (*enter_unevictable)() = [] {};      // see AllocationHooks
  void (*leave_unevictable)() = [] {};
  void (*attend)() = [] {};  // called by the reclaimer, at least once a second while it runs
  Hardening hardening = Hardening::off;
  std::size_t arena_bytes = Arena::kDefaultSize;
  std::size_t smallest_arena_bytes = Arena::kSmallestSize;
};

class Manager {
 public:
  // Ends the process with a report when not even the smallest arena can be reserved.
  explicit Manager(const ManagerOptions& options);
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;

  const Arena& arena() const { return arena_; }
  Heap& heap() { return heap_; }
  Budget& budget() { return budget_; }
  Buddy& buddy() { return buddy_; }
  Pager& pager() { return pager_; }
  MetadataPool& unevictable() { return pool_; }
  bool owns(const void* pointer) const { return arena_.contains(pointer); }
  const StatisticsSegment& statistics();

  // Bytes; 0: none.
  std::size_t memory_limit() const { return limit_bytes_.load(std::memory_order_relaxed); }
  // Raising takes effect at once; lowering waits until what is resident fits. ETIMEDOUT when that does not come to pass;
  // the new limit is in force all the same. EINVAL: smaller than what the library needs for itself.
  Errno set_memory_limit(std::size_t bytes);

  // The two halves of that, neither of which waits. change: EINVAL, or the limit is in force. begin_to_fit: kOk when what
  // is resident fits; EAGAIN when it does not yet, and pages are being evicted or will be; ETIMEDOUT: nothing more can be
  // evicted; EOPNOTSUPP: the machine does not allow paging.
  Errno change_memory_limit(std::size_t bytes);
  Errno begin_to_fit() { return pager_.begin_to_fit(); }

  // The process runs its constructors: service threads may be started when the limit is approached.
  void allow_threads() { pager_.allow_threads(); }
  // Each thread of the program, about itself, under a limit: where it runs, and that it ends.
  void thread_begins();
  void thread_ends();

  // The program drops the contents of whole pages of heap memory it goes on using: they read as zero at the next touch.
  void program_discard(void* address, std::size_t size);

  // After the program has told the kernel that children find all of the heap: those that nobody tells us of shall not find
  // what can be evicted, which would be zeros to them.
  void withhold_evictable();

  // Around fork(2), on the forking thread: prepare first, then one of the others; the child's with the thread's cache,
  // ThreadCache::empty() where it has none.
  void fork_prepare() POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void fork_parent() POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void fork_child(ThreadCache* survivor) POLDER_NO_THREAD_SAFETY_ANALYSIS;
  // In a child that was made while nothing was evicted, without the three. Async-signal-safe.
  void begin_in_bare_child();

  // Walks everything that can be walked while other threads run, and checks the invariants.
  void verify();

 private:
  static Arena::Layout layout_for(std::size_t arena_size);
  void publish_layout();
  void count_for_itself();

  StatisticsSegment private_statistics_;
  StatisticsSegment* statistics_;
  std::atomic<std::size_t> limit_bytes_;  // atomic: read at any time

  Arena arena_;
  Budget budget_;
  MetadataSpace space_;
  MetadataPool pool_;
  Buddy buddy_;
  Pager pager_;
  Heap heap_;
};

}  // namespace polder
