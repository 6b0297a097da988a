// The slots of one swap file: which are free, how often each is referenced, and the hash of what it holds. Knows nothing
// of descriptors or disks, so it is tested on tiny instances.
//
//   slot      4 KiB of the file
//   cluster   64 slots, 256 KiB: one word of each bitmap; what is evicted together is written into one cluster
//   section   256 slots, 1 MiB: one page of hashes; unit of growth, of hole punching and of giving hashes back
//   group     64 clusters, 16 MiB: one word of each hint
//   frontier  slots below it have been in use at least once; their state is committed and charged
//
// Life of a slot, as its bits say:
//
//   free ──allocate──> used (count >= 1) ──last release──> free              held bit clear
//     ^                                  └─last release──> retired           held bit set: a forked child may read it
//     └───────────────────────── release_hold ────────────────┘
//
// Cost: 18 bytes a slot (2 count, 16 hash) plus half a byte of bitmaps, charged to the budget as it becomes resident.
//
// Threads: reference(), release(), hash() and the counters from any thread, lock-free, no system call, in O(1); the
// caller of these holds a reference to the slot. Everything else "reclaimer only": one thread at a time, the holder of
// LockRank::reclaim.
//
// Invariants (checked by verify()): free and retired are disjoint; a slot below the frontier has count 0 exactly if it is
// free or retired; used = slots that are neither, bad ones excepted; every wholly free cluster has its `whole` hint and every cluster
// with a free slot its `some` hint (hints may be stale the other way round); a section with a used slot is backed.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/errno.h"
#include "base/units.h"
#include "store/page_hash.h"
#include "vm/metadata.h"

namespace polder {

class Budget;

// What a forked child may still read: a copy of the used bits of the moment of the fork, in a mapping of its own.
struct SlotHold {
  SlotHold* next;
  std::size_t size;        // of the mapping
  std::uint32_t clusters;  // words of the copy, which follows this header
  int lifeline;            // the owner's: descriptor that reports the child's end, or -1

  std::uint64_t* used() { return reinterpret_cast<std::uint64_t*>(this + 1); }
};

class SlotTable {
 public:
  static constexpr std::uint32_t kClusterSlots = 64;
  static constexpr std::uint32_t kSectionSlots = 256;
  static constexpr std::uint32_t kGroupSlots = 4096;
  static constexpr std::uint16_t kMaxReferences = 0xFFFE;

  struct Span {
    std::uint32_t first = 0;
    std::uint32_t count = 0;
  };

  SlotTable() = default;
  ~SlotTable() { destroy(); }
  SlotTable(const SlotTable&) = delete;
  SlotTable& operator=(const SlotTable&) = delete;

  // --- reclaimer only ---

  // Reserves state for `capacity` slots, a multiple of kClusterSlots up to Location::kSlotLimit. ENOMEM.
  Errno create(std::uint32_t capacity, Budget& budget);
  // Gives all state back, whatever is still referenced. Nothing to do when create() was never called.
  void destroy();

  // At most `wanted` consecutive free slots, each with one reference afterwards; count 0 when there are none. In order
  // of preference: what follows the last allocation; a wholly free cluster; a contiguous piece worth a transfer; growth;
  // the longest piece found. May commit memory.
  Span allocate(std::uint32_t wanted);
  // After a write of the slot succeeded: records what it holds.
  void set_hash(std::uint32_t slot, const PageHash& hash);
  // A slot that cannot be written: takes the caller's reference; not handed out again until forgive_bad().
  void mark_bad(std::uint32_t slot);
  void forgive_bad();

  // While `rewritable`, only slots that have blocks on the disk already are handed out (the disk is full).
  enum class Supply : unsigned char { all, rewritable };
  void set_supply(Supply supply) { supply_ = supply; }
  Supply supply() const { return supply_; }

  // Slots used now stay out of circulation, even when released, until the hold is. ENOMEM.
  Result<SlotHold*> hold_used();
  void release_hold(SlotHold* hold);
  SlotHold* holds() const { return holds_; }
  // Forked child: drops the parent's holds, which mean nothing here.
  void forget_holds();

  // Takes the next wholly free section that has blocks on the disk or resident hashes, looking at no more than `look`
  // sections: gives its hashes back and reports its slots, whose blocks the caller drops. Count 0 when none was found.
  Span take_unused_section(unsigned look);

  // Forked child, while it has one thread: no slot has a reference afterwards; recount() adds them one by one.
  void clear_counts();
  void recount(std::uint32_t slot);

  void verify() const;

  // --- any thread ---

  void reference(std::uint32_t slot);
  // The last reference frees the slot. The caller no longer reads it, nor has a transfer under way.
  void release(std::uint32_t slot);
  // To the reclaimer also without a reference: the hash of what the slot last held, or zero.
  const PageHash& hash(std::uint32_t slot) const;

  std::uint32_t capacity() const { return capacity_; }
  std::uint32_t frontier() const { return frontier_.load(std::memory_order_relaxed); }
  // Slots with references. Zero, read with acquire, means that no thread is inside release() any more.
  std::uint32_t used() const { return used_.load(std::memory_order_acquire); }
  std::uint32_t bad() const { return bad_.load(std::memory_order_relaxed); }
  // Pages of state that are charged, holds included.
  PageCount charged() const { return {charged_.load(std::memory_order_relaxed)}; }

 private:
  static constexpr std::uint16_t kBad = 0xFFFF;  // count of a bad slot
  // Slots whose state is made accessible at once: 256 KiB of hashes.
  static constexpr std::uint32_t kCommitSlots = 16384;
  // A piece shorter than this is taken only when nothing else is left: 64 KiB reads cost twice a 4 KiB read, and a
  // folio is evicted with one call.
  static constexpr std::uint32_t kWorthwhile = 16;
  // Clusters that a search for a worthwhile piece looks into before the file grows instead: about 5 µs.
  static constexpr std::uint32_t kLook = 512;

  struct Cluster {
    std::atomic<std::uint64_t> free;     // atomic: set by releasing threads, cleared by allocate()
    std::atomic<std::uint64_t> retired;  // atomic: set by releasing threads, cleared by the reclaimer
    std::atomic<std::uint64_t> held;     // atomic: union of all holds, written by the reclaimer
    std::uint64_t written;               // has blocks on the disk; reclaimer only
  };
  struct Group {
    std::atomic<std::uint64_t> whole;  // bit per cluster: perhaps wholly free
    std::atomic<std::uint64_t> some;   // bit per cluster: perhaps with a free slot
    std::uint64_t backed;              // bit per section: hash page charged; reclaimer only
  };

  std::uint64_t usable(std::uint32_t cluster) const;
  std::uint32_t usable_from(std::uint32_t slot, std::uint32_t wanted) const;
  Span find_cluster(std::uint32_t wanted);
  Span find_piece(std::uint32_t wanted, std::uint32_t enough, std::uint32_t look);
  Span grow(std::uint32_t wanted);
  void claim(Span span);
  void back_section(std::uint32_t section);
  void set_free(std::uint32_t cluster, std::uint64_t mask);
  void sweep_retired();
  void refresh_hints(std::uint32_t cluster);
  void charge(std::uint64_t pages);
  void uncharge(std::uint64_t pages);
  static std::uint64_t table_pages(std::uint32_t slots);

  template <typename Visit>
  void visit_hinted(std::atomic<std::uint64_t> Group::*hint, Visit visit);

  // Immutable between create() and destroy().
  Budget* budget_ = nullptr;
  char* reservation_ = nullptr;
  std::size_t reserved_ = 0;
  std::uint32_t capacity_ = 0;
  MetadataArray<std::atomic<std::uint16_t>> counts_;
  MetadataArray<PageHash> hashes_;  // an element belongs to whoever holds the slot
  MetadataArray<Cluster> clusters_;
  MetadataArray<Group> groups_;

  std::atomic<std::uint32_t> frontier_{0};  // atomic: statistics read it; written by the reclaimer
  std::atomic<std::uint32_t> used_{0};      // atomic: releasing threads count down as their last step
  std::atomic<std::uint32_t> bad_{0};       // atomic: statistics
  std::atomic<std::uint64_t> charged_{0};   // atomic: statistics
  std::atomic<bool> unswept_{false};        // atomic: a slot was retired just after its hold had ended

  // Reclaimer only.
  std::uint32_t cursor_ = 0;  // slot after the last allocation
  std::uint32_t unused_cursor_ = 0;
  Supply supply_ = Supply::all;
  SlotHold* holds_ = nullptr;
};

}  // namespace polder
