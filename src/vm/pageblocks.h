// The mode of every pageblock, and how many pages of every granule are handed out.
//
//   unused     no page handed out since the block was reserved; not registered
//   native     not registered with userfaultfd: the kernel serves first touches. Every page handed out is charged,
//              touched or not; the block has no words in the page table, but bits (vm/native_pages.h)
//   converting registered, words not yet written: faults on it are parked
//   managed    registered; page states are exact; pages are evictable. The bits stay what they were last
//
//   unused ─► native ─► converting ─► managed        (unused may also go to converting directly)
//
// Native blocks queue in the order in which they became native: the oldest are converted first, as nothing better is
// known about their age. Modes are atomic: the fault loop reads them without a lock (acquire, pairs with the release
// that ends a conversion). They change, and native blocks' bits and charges change, only under mutex().
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/units.h"
#include "os/mutex.h"
#include "vm/metadata.h"
#include "vm/native_pages.h"

namespace polder {

enum class BlockMode : std::uint8_t { unused, native, converting, managed };

// What the kernel was told about huge pages there. Blocks that differ are mappings of their own.
enum class BlockAdvice : std::uint8_t { none, huge, small };

class Pageblocks {
 public:
  struct Block {
    std::uint64_t unprovided;  // guarded by mutex(); granules that are resident with a huge page, and nobody's so far
    std::atomic<BlockMode> mode;
    bool queued;                // guarded by mutex(); in the native queue, perhaps no longer native
    BlockAdvice advice;         // guarded by mutex()
    std::uint32_t next_native;  // guarded by mutex(); block id + 1, 0 ends the queue
    NativePages pages;
    std::array<std::atomic<std::uint8_t>, kGranulesPerBlock> handed_out;  // atomic: read by the fault loop
  };

  explicit Pageblocks(MetadataArray<Block> blocks) : blocks_(blocks) {}

  os::Mutex& mutex() POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

  // Makes the state of all blocks below `end` accessible.
  Errno ensure_locked(BlockId end) POLDER_REQUIRES(mutex_);

  BlockMode mode(BlockId block) const { return blocks_[block.value].mode.load(std::memory_order_acquire); }
  // True when the block's state is accessible at all; a wild address may lie beyond.
  bool known(BlockId block) const { return block.value < known_.load(std::memory_order_acquire); }
  BlockCount known_blocks() const { return {known_.load(std::memory_order_acquire)}; }

  void make_native_locked(BlockId block) POLDER_REQUIRES(mutex_);
  void begin_conversion_locked(BlockId block) POLDER_REQUIRES(mutex_);
  void end_conversion_locked(BlockId block) POLDER_REQUIRES(mutex_);
  // The registration was refused: the block is native again, at the end of the queue.
  void cancel_conversion_locked(BlockId block) POLDER_REQUIRES(mutex_);

  // Written with the mutex, but an owner of pages may read them without: what it reads is true of its pages, also where the
  // block is converted meanwhile.
  const NativePages& native_pages(BlockId block) const { return blocks_[block.value].pages; }
  NativePages& native_pages_locked(BlockId block) POLDER_REQUIRES(mutex_) { return blocks_[block.value].pages; }

  // Huge: pages are resident there that were never touched, and are charged therefore; none is moved.
  bool is_huge_locked(BlockId block) const POLDER_REQUIRES(mutex_) {
    return blocks_[block.value].advice == BlockAdvice::huge;
  }
  // For whoever advises the kernel then. False, and unchanged, where that would part too many mappings.
  bool try_advise_locked(BlockId block, BlockAdvice advice) POLDER_REQUIRES(mutex_);
  // For whoever has told the kernel so about the whole arena.
  void advise_all_small_locked() POLDER_REQUIRES(mutex_);

  // All of a block became resident with its first pages; some of it is provided; what never was is given up.
  void begin_unprovided_locked(BlockId block) POLDER_REQUIRES(mutex_) { blocks_[block.value].unprovided = UINT64_MAX; }
  void note_provided_locked(BlockId block, std::uint64_t granules) POLDER_REQUIRES(mutex_) {
    blocks_[block.value].unprovided &= ~granules;
  }
  std::uint64_t end_unprovided_locked(BlockId block) POLDER_REQUIRES(mutex_) {
    return std::exchange(blocks_[block.value].unprovided, 0);
  }

  // Takes the block that has been native longest out of the queue.
  std::optional<BlockId> oldest_native_locked() POLDER_REQUIRES(mutex_);

  BlockCount native_blocks() const { return {native_.load(std::memory_order_relaxed)}; }
  BlockCount managed_blocks() const { return {managed_.load(std::memory_order_relaxed)}; }

  // Pages of the granule that belong to its owner, counted from the granule's start; the rest is never filled ahead. Of a
  // granule with several spans, what was heard last: some of the pages may be nobody's, or some of the rest somebody's.
  std::uint32_t handed_out(GranuleId granule) const { return handed_out_of(granule).load(std::memory_order_relaxed); }
  void set_handed_out(GranuleId granule, std::uint64_t pages) {
    handed_out_of(granule).store(static_cast<std::uint8_t>(pages), std::memory_order_relaxed);
  }
  // Of all granules in [first, end), which are of one block.
  void set_handed_out(GranuleId first, GranuleId end, std::uint64_t pages) {
    if (first == end) return;
    std::atomic<std::uint8_t>* const handed_out = &handed_out_of(first);
    for (std::uint64_t i = 0; i < (end - first).value; ++i) {
      handed_out[i].store(static_cast<std::uint8_t>(pages), std::memory_order_relaxed);
    }
  }

 private:
  std::atomic<std::uint8_t>& handed_out_of(GranuleId granule) const {
    return blocks_[granule.value / kGranulesPerBlock].handed_out[granule.value % kGranulesPerBlock];
  }
  void enqueue_native_locked(BlockId block) POLDER_REQUIRES(mutex_);

  os::Mutex mutex_{LockRank::blocks};
  MetadataArray<Block> blocks_;
  std::atomic<std::uint32_t> known_{0};
  std::uint32_t native_head_ POLDER_GUARDED_BY(mutex_) = 0;  // block id + 1
  std::uint32_t native_tail_ POLDER_GUARDED_BY(mutex_) = 0;
  std::uint32_t borders_ POLDER_GUARDED_BY(mutex_) = 0;  // between blocks whose advice differs
  std::atomic<std::uint64_t> native_{0};                 // atomic: statistics read them at any time
  std::atomic<std::uint64_t> managed_{0};
};

}  // namespace polder
