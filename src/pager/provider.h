// The Backing that the heap sees: gets the pages of runs ready for use and takes them back. Runs on allocating threads;
// holds the blocks lock for one pageblock at a time, for a few when it purges them, and never while it waits.
//
//   memory to spare   pages are charged, the kernel serves their first touch (native)
//   pressed           room is made for the run in one batch, then as above
//   too large for it  the reclaimer makes the run's blocks managed: nothing is charged until pages are touched
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "pager/parts.h"
#include "pager/relocator.h"
#include "vm/backing.h"

namespace polder {

// What the provider needs from the pager's threads.
class PressureRelief {
 public:
  // The low watermark is passed: service threads should exist and work. Starts them at the first call, else returns
  // at once.
  virtual void relieve() = 0;
  // Whether service threads were to exist at any time, in this process or one that it was forked from.
  virtual bool was_needed() const = 0;
  // Pages that runs must leave free: the min watermark, and what arming will take until it has.
  virtual PageCount reserve() const = 0;
  // Waits until `pages` are free beyond the reserve. False when that will not come to pass.
  virtual bool make_room(PageCount pages) = 0;
  // False when nothing can be evicted (no limit, or the machine does not allow paging): blocks cannot be managed.
  virtual bool can_manage() = 0;
  // Waits until the blocks are managed; the refusal otherwise. Precondition: can_manage().
  virtual Errno manage(BlockId first, BlockCount count) = 0;
  // Where pages of managed blocks are that are not in memory. Precondition: some block was managed.
  virtual Store& store() = 0;

 protected:
  ~PressureRelief() = default;
};

class Provider final : public Backing {
 public:
  // Metadata that describes one chunk of the arena, by all who keep some; charged when the chunk is committed.
  Provider(VmParts& parts, Arena& arena, MetadataArray<std::atomic<std::uint8_t>>& gate_flags,
           MetadataArray<AgeingNode>& ageing_nodes, PressureRelief& relief, PageCount metadata_per_chunk)
      : parts_(parts),
        arena_(arena),
        gate_flags_(gate_flags),
        ageing_nodes_(ageing_nodes),
        relief_(relief),
        metadata_per_chunk_(metadata_per_chunk) {}

  bool provide(Run run, Occupancy occupancy) override;
  void discard(Run run) override;
  bool reads_as_zero(Run run) const override;
  using Backing::purge;
  void purge(std::span<const Run> runs) override;
  bool provide_for_relocation(Run run, Run from) override;
  PageCount relocate(Run from, PageId to) override;
  PageCount recycle(DirtySource& source, Run to) override { return relocator_.recycle(source, to); }
  void zero(Run run) override;
  bool guard(Run run) override;
  bool unguard(Run run) override;
  bool may_evict() const override { return relief_.was_needed(); }
  bool under_pressure() const override { return parts_.budget.limited() && relief_.was_needed(); }

  // The program dropped the contents of heap memory that it goes on using (madvise): zero on the next touch.
  void drop_contents(Run run);

  // Checks that blocks have either bits or words. Any thread that holds no lock.
  void verify() const;

 private:
  bool ensure_described(Run run);
  bool make_room_to_describe(Run run);
  bool provide_piece(Run piece, Occupancy occupancy);
  bool try_native(Run piece, Occupancy occupancy, PageCount* needed, BlockMode* mode);
  bool try_huge(BlockId block, Occupancy occupancy, BlockMode mode) POLDER_REQUIRES(parts_.blocks.mutex());
  void end_huge(BlockId block) POLDER_REQUIRES(parts_.blocks.mutex());
  bool can_be_filled(Run piece);
  void provide_managed(Run piece);
  void hand_out(Run piece);
  void take_back(Run piece);
  void withdraw(Run run);
  Errno guard_piece(Run piece);
  Errno guard_unmanaged_locked(Run piece) POLDER_REQUIRES(parts_.blocks.mutex());
  bool unguard_piece(Run piece);
  Run first_managed_guards(Run run) const;
  bool make_blocks_managed(Run run);
  bool is_managed(PageId page) const { return parts_.blocks.mode(block_of(page)) == BlockMode::managed; }
  PageCount relocate_managed(Run from, PageId to);
  PageCount move_stored(Run from, PageId to);
  PageCount move_contents(Run from, PageId to);

  enum class Exactness : std::uint8_t { lazily, at_once };
  void drop_managed(Run piece, Exactness exactness);
  struct Drops;
  void add_locked(Run resident, Drops& drops) POLDER_REQUIRES(parts_.blocks.mutex());
  void flush_locked(Drops& drops) POLDER_REQUIRES(parts_.blocks.mutex());
  void drop_native_locked(Run piece, Drops& drops) POLDER_REQUIRES(parts_.blocks.mutex());
  void drop_resident_locked(Run piece, Drops& drops) POLDER_REQUIRES(parts_.blocks.mutex());
  void drop_native_now_locked(Run piece) POLDER_REQUIRES(parts_.blocks.mutex());
  bool drop_page(PageId page, Exactness exactness);

  VmParts& parts_;
  Arena& arena_;
  MetadataArray<std::atomic<std::uint8_t>>& gate_flags_;
  MetadataArray<AgeingNode>& ageing_nodes_;
  PressureRelief& relief_;
  const PageCount metadata_per_chunk_;
  Relocator relocator_{parts_};
  std::atomic<bool> guards_missed_{false};  // atomic: any thread; whether it was said
};

}  // namespace polder
