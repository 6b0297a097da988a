#include "vm/pageblocks.h"

#include "base/check.h"

namespace polder {

namespace {

// A small part of the mappings that a process may have (vm.max_map_count, 65,530).
constexpr int kMostBorders = 4096;

}  // namespace

Errno Pageblocks::ensure_locked(BlockId end) {
  if (end.value <= known_.load(std::memory_order_relaxed)) return kOk;
  const Errno error = blocks_.ensure(end.value);
  if (error.ok()) known_.store(end.value, std::memory_order_release);
  return error;
}

void Pageblocks::enqueue_native_locked(BlockId block) {
  if (blocks_[block.value].queued) return;
  blocks_[block.value].queued = true;
  blocks_[block.value].next_native = 0;
  if (native_tail_ == 0) {
    native_head_ = block.value + 1;
  } else {
    blocks_[native_tail_ - 1].next_native = block.value + 1;
  }
  native_tail_ = block.value + 1;
}

void Pageblocks::make_native_locked(BlockId block) {
  POLDER_CHECK(mode(block) == BlockMode::unused, "only an unused block becomes native", block.value);
  blocks_[block.value].mode.store(BlockMode::native, std::memory_order_release);
  native_.fetch_add(1, std::memory_order_relaxed);
  enqueue_native_locked(block);
}

bool Pageblocks::try_advise_locked(BlockId block, BlockAdvice advice) {
  const BlockAdvice before = blocks_[block.value].advice;
  int change = 0;
  const auto compare = [&](BlockAdvice beside) { change += int{beside != advice} - int{beside != before}; };
  if (block.value != 0) compare(blocks_[block.value - 1].advice);
  // About blocks that are not known yet nobody was told anything.
  const bool last = block.value + 1 == known_.load(std::memory_order_relaxed);
  compare(last ? BlockAdvice::none : blocks_[block.value + 1].advice);
  const int borders = static_cast<int>(borders_) + change;
  if (change > 0 && borders > kMostBorders) return false;
  POLDER_CHECK(borders >= 0, "borders between blocks", block.value, borders);
  blocks_[block.value].advice = advice;
  borders_ = static_cast<std::uint32_t>(borders);
  return true;
}

void Pageblocks::advise_all_small_locked() {
  const std::uint32_t known = known_.load(std::memory_order_relaxed);
  for (std::uint32_t block = 0; block < known; ++block) blocks_[block].advice = BlockAdvice::small;
  borders_ = known == 0 ? 0 : 1;  // to the blocks that are not known yet
}

void Pageblocks::begin_conversion_locked(BlockId block) {
  const BlockMode before = mode(block);
  POLDER_CHECK(before == BlockMode::native || before == BlockMode::unused, "conversion starts native or unused",
               block.value, before);
  if (before == BlockMode::native) native_.fetch_sub(1, std::memory_order_relaxed);
  blocks_[block.value].mode.store(BlockMode::converting, std::memory_order_release);
}

void Pageblocks::end_conversion_locked(BlockId block) {
  POLDER_CHECK(mode(block) == BlockMode::converting, "conversion ends once", block.value);
  blocks_[block.value].mode.store(BlockMode::managed, std::memory_order_release);
  managed_.fetch_add(1, std::memory_order_relaxed);
}

void Pageblocks::cancel_conversion_locked(BlockId block) {
  POLDER_CHECK(mode(block) == BlockMode::converting, "conversion is cancelled once", block.value);
  blocks_[block.value].mode.store(BlockMode::native, std::memory_order_release);
  native_.fetch_add(1, std::memory_order_relaxed);
  enqueue_native_locked(block);
}

std::optional<BlockId> Pageblocks::oldest_native_locked() {
  while (native_head_ != 0) {
    const std::uint32_t block = native_head_ - 1;
    native_head_ = blocks_[block].next_native;
    if (native_head_ == 0) native_tail_ = 0;
    blocks_[block].queued = false;
    if (mode(BlockId{block}) == BlockMode::native) return BlockId{block};
  }
  return std::nullopt;
}

}  // namespace polder
