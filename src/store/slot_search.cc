// Where the next victims go: the allocating half of SlotTable. Log-structured in spirit (M. Rosenblum, J. Ousterhout,
// "The design and implementation of a log-structured file system", 1992): writes follow each other through the file, and
// continue in places that have become wholly free.
#include <algorithm>
#include <bit>

#include "base/check.h"
#include "os/mapping.h"
#include "store/slot_table.h"

namespace polder {
namespace {

constexpr std::uint64_t kAll = ~std::uint64_t{0};
constexpr std::uint32_t kSectionsPerGroup = SlotTable::kGroupSlots / SlotTable::kSectionSlots;

constexpr std::uint64_t bit_of(std::uint32_t index) { return std::uint64_t{1} << (index % 64); }

// `count` bits from bit `first` on; first + count <= 64.
constexpr std::uint64_t bits_from(std::uint32_t first, std::uint32_t count) {
  return (count == 64 ? kAll : (std::uint64_t{1} << count) - 1) << first;
}

}  // namespace

std::uint64_t SlotTable::usable(std::uint32_t cluster) const {
  const Cluster& state = clusters_[cluster];
  // Acquire pairs with set_free(): what referring threads did with the slot is over.
  const std::uint64_t free = state.free.load(std::memory_order_acquire);
  return supply_ == Supply::all ? free : free & state.written;
}

// How many usable slots follow each other from `slot` on, at most `wanted`.
std::uint32_t SlotTable::usable_from(std::uint32_t slot, std::uint32_t wanted) const {
  std::uint32_t count = 0;
  while (count < wanted && slot + count < frontier()) {
    const std::uint32_t bit = (slot + count) % kClusterSlots;
    const std::uint64_t taken = ~(usable((slot + count) / kClusterSlots) >> bit);
    const std::uint32_t here = std::min(static_cast<std::uint32_t>(std::countr_zero(taken)), kClusterSlots - bit);
    count += here;
    if (bit + here < kClusterSlots) break;
  }
  return std::min(count, wanted);
}

// Calls visit(cluster) for the clusters that have the hint, in cyclic order from the cursor, until it returns true.
template <typename Visit>
void SlotTable::visit_hinted(std::atomic<std::uint64_t> Group::*hint, Visit visit) {
  const std::uint32_t clusters = frontier() / kClusterSlots;
  if (clusters == 0) return;
  const std::uint32_t groups = (clusters + 63) / 64;
  const std::uint32_t start = cursor_ / kClusterSlots % clusters;
  const std::uint64_t behind_start = kAll << (start % 64);
  for (std::uint32_t i = 0; i <= groups; ++i) {
    const std::uint32_t group = (start / 64 + i) % groups;
    std::uint64_t hinted = (groups_[group].*hint).load(std::memory_order_relaxed);
    if (i == 0) hinted &= behind_start;
    if (i == groups) hinted &= ~behind_start;
    for (; hinted != 0; hinted &= hinted - 1) {
      if (visit(group * 64 + static_cast<std::uint32_t>(std::countr_zero(hinted)))) return;
    }
  }
}

// Clears hints that no longer hold. A thread that frees a slot of the cluster meanwhile either sets the hint after this
// clears it, or its bit is seen by the second look; both sides are sequentially consistent.
void SlotTable::refresh_hints(std::uint32_t cluster) {
  const std::atomic<std::uint64_t>& free = clusters_[cluster].free;
  Group& group = groups_[cluster / 64];
  const std::uint64_t bit = bit_of(cluster);
  if (free.load(std::memory_order_seq_cst) != kAll && (group.whole.load(std::memory_order_seq_cst) & bit) != 0) {
    group.whole.fetch_and(~bit, std::memory_order_seq_cst);
    if (free.load(std::memory_order_seq_cst) == kAll) group.whole.fetch_or(bit, std::memory_order_seq_cst);
  }
  if (free.load(std::memory_order_seq_cst) == 0 && (group.some.load(std::memory_order_seq_cst) & bit) != 0) {
    group.some.fetch_and(~bit, std::memory_order_seq_cst);
    if (free.load(std::memory_order_seq_cst) != 0) group.some.fetch_or(bit, std::memory_order_seq_cst);
  }
}

SlotTable::Span SlotTable::find_cluster(std::uint32_t wanted) {
  Span found;
  visit_hinted(&Group::whole, [&](std::uint32_t cluster) {
    if (usable(cluster) != kAll) {
      refresh_hints(cluster);
      return false;
    }
    found = {cluster * kClusterSlots, usable_from(cluster * kClusterSlots, wanted)};
    return true;
  });
  return found;
}

// The first piece of at least `enough` slots in the next `look` clusters that have any, or the longest piece there.
SlotTable::Span SlotTable::find_piece(std::uint32_t wanted, std::uint32_t enough, std::uint32_t look) {
  Span best;
  visit_hinted(&Group::some, [&](std::uint32_t cluster) {
    std::uint64_t left = usable(cluster);
    if (left == 0) {
      refresh_hints(cluster);
      return false;
    }
    while (left != 0 && best.count < enough) {
      const auto first = static_cast<std::uint32_t>(std::countr_zero(left));
      const auto length = static_cast<std::uint32_t>(std::countr_one(left >> first));
      const std::uint32_t slot = cluster * kClusterSlots + first;
      const std::uint32_t count =
          first + length == kClusterSlots ? usable_from(slot, wanted) : std::min(length, wanted);
      if (count > best.count) best = {slot, count};
      left &= ~bits_from(first, length);
    }
    return best.count >= enough || --look == 0;
  });
  return best;
}

std::uint64_t SlotTable::table_pages(std::uint32_t slots) {
  return pages_up(slots * sizeof(std::uint16_t)).value + pages_up(slots / kClusterSlots * sizeof(Cluster)).value +
         pages_up((slots + kGroupSlots - 1) / kGroupSlots * sizeof(Group)).value;
}

// Moves the frontier up by a section and finds the slots there.
SlotTable::Span SlotTable::grow(std::uint32_t wanted) {
  const std::uint32_t before = frontier();
  if (before == capacity_ || supply_ == Supply::rewritable) return {};
  const std::uint32_t after = std::min(before + kSectionSlots - before % kSectionSlots, capacity_);
  const std::uint32_t committed = std::min((after + kCommitSlots - 1) / kCommitSlots * kCommitSlots, capacity_);
  if (!counts_.ensure(committed).ok() || !hashes_.ensure(committed).ok() ||
      !clusters_.ensure(committed / kClusterSlots).ok() ||
      !groups_.ensure((committed + kGroupSlots - 1) / kGroupSlots).ok()) {
    return {};
  }
  charge(table_pages(after) - table_pages(before));
  frontier_.store(after, std::memory_order_relaxed);
  for (std::uint32_t i = before / kClusterSlots; i < after / kClusterSlots; ++i) set_free(i, kAll);
  return {before, usable_from(before, wanted)};
}

SlotTable::Span SlotTable::allocate(std::uint32_t wanted) {
  POLDER_CHECK(wanted != 0 && capacity_ != 0, "no slots wanted, or none there", wanted, capacity_);
  // Release threads set it only when they meet the end of a hold.
  if (unswept_.load(std::memory_order_acquire)) sweep_retired();
  const std::uint32_t enough = std::min(wanted, kWorthwhile);
  Span span{cursor_, usable_from(cursor_, wanted)};
  if (span.count < enough) span = find_cluster(wanted);
  if (span.count == 0) {
    const Span piece = find_piece(wanted, enough, kLook);
    span = piece;
    if (piece.count < enough) span = grow(wanted);
    if (span.count == 0) span = piece;
    if (span.count == 0) span = find_piece(wanted, 1, capacity_);
  }
  if (span.count != 0) claim(span);
  return span;
}

void SlotTable::claim(Span span) {
  for (std::uint32_t slot = span.first; slot < span.first + span.count;) {
    const std::uint32_t cluster = slot / kClusterSlots;
    const std::uint32_t here = std::min(kClusterSlots - slot % kClusterSlots, span.first + span.count - slot);
    const std::uint64_t mask = bits_from(slot % kClusterSlots, here);
    const std::uint64_t free = clusters_[cluster].free.fetch_and(~mask, std::memory_order_seq_cst);
    POLDER_CHECK((free & mask) == mask, "slot taken twice", cluster, free, mask);
    refresh_hints(cluster);
    back_section(slot / kSectionSlots);
    for (const std::uint32_t end = slot + here; slot < end; ++slot) {
      const std::uint16_t before = counts_[slot].exchange(1, std::memory_order_relaxed);
      POLDER_CHECK(before == 0, "free slot has references", slot, before);
    }
  }
  used_.fetch_add(span.count, std::memory_order_relaxed);
  cursor_ = span.first + span.count;
}

void SlotTable::back_section(std::uint32_t section) {
  std::uint64_t& backed = groups_[section / kSectionsPerGroup].backed;
  const std::uint64_t bit = bit_of(section % kSectionsPerGroup);
  if ((backed & bit) != 0) return;
  backed |= bit;
  charge(1);
}

SlotTable::Span SlotTable::take_unused_section(unsigned look) {
  static_assert(kSectionSlots * sizeof(PageHash) == kPageSize);
  const std::uint32_t slots = frontier();
  const std::uint32_t sections = (slots + kSectionSlots - 1) / kSectionSlots;
  for (look = std::min(look, sections); look != 0; --look) {
    if (unused_cursor_ >= sections) unused_cursor_ = 0;
    const std::uint32_t section = unused_cursor_++;
    std::uint64_t& backed = groups_[section / kSectionsPerGroup].backed;
    const std::uint64_t bit = bit_of(section % kSectionsPerGroup);
    if ((backed & bit) == 0) continue;
    const Span span{section * kSectionSlots, std::min(kSectionSlots, slots - section * kSectionSlots)};
    const std::uint32_t end = (span.first + span.count) / kClusterSlots;
    std::uint64_t free = kAll;
    for (std::uint32_t i = span.first / kClusterSlots; i < end; ++i) {
      free &= clusters_[i].free.load(std::memory_order_acquire);
    }
    if (free != kAll) continue;
    if (!os::discard(&hashes_[span.first], kPageSize).ok()) continue;
    for (std::uint32_t i = span.first / kClusterSlots; i < end; ++i) clusters_[i].written = 0;
    backed &= ~bit;
    uncharge(1);
    return span;
  }
  return {};
}

}  // namespace polder
