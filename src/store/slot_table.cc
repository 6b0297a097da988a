#include "store/slot_table.h"

#include <algorithm>
#include <bit>

#include "base/check.h"
#include "os/mapping.h"
#include "store/location.h"
#include "vm/budget.h"

namespace polder {
namespace {

constexpr std::uint64_t kAll = ~std::uint64_t{0};

constexpr std::uint64_t bit_of(std::uint32_t index) { return std::uint64_t{1} << (index % 64); }
constexpr std::uint32_t divide_up(std::uint32_t value, std::uint32_t divisor) {
  return (value + divisor - 1) / divisor;
}

}  // namespace

// --- life of the table ---

Errno SlotTable::create(std::uint32_t capacity, Budget& budget) {
  POLDER_CHECK(reservation_ == nullptr, "slot table exists");
  POLDER_CHECK(capacity != 0 && capacity % kClusterSlots == 0 && capacity <= Location::kSlotLimit, "slot capacity",
               capacity);
  const std::uint32_t clusters = capacity / kClusterSlots;
  const std::uint32_t groups = divide_up(capacity, kGroupSlots);
  const std::size_t size = decltype(counts_)::bytes_for(capacity) + decltype(hashes_)::bytes_for(capacity) +
                           decltype(clusters_)::bytes_for(clusters) + decltype(groups_)::bytes_for(groups);
  const Result<char*> reservation = os::reserve(size, kPageSize);
  if (!reservation.ok()) return reservation.error;
  // A huge page would make resident what is not charged.
  os::advise_huge_pages(reservation.value, size, os::HugePages::never);

  reservation_ = reservation.value;
  reserved_ = size;
  capacity_ = capacity;
  budget_ = &budget;
  MetadataSpace space(reservation_, reserved_);
  hashes_ = {space, capacity};
  counts_ = {space, capacity};
  clusters_ = {space, clusters};
  groups_ = {space, groups};
  return kOk;
}

void SlotTable::destroy() {
  if (reservation_ == nullptr) return;
  forget_holds();
  os::release(reservation_, reserved_);
  uncharge(charged_.load(std::memory_order_relaxed));
  budget_ = nullptr;
  reservation_ = nullptr;
  reserved_ = 0;
  capacity_ = 0;
  counts_ = {};
  hashes_ = {};
  clusters_ = {};
  groups_ = {};
  frontier_.store(0, std::memory_order_relaxed);
  used_.store(0, std::memory_order_relaxed);
  bad_.store(0, std::memory_order_relaxed);
  unswept_.store(false, std::memory_order_relaxed);
  cursor_ = 0;
  unused_cursor_ = 0;
  supply_ = Supply::all;
}

void SlotTable::charge(std::uint64_t pages) {
  budget_->charge_metadata({pages});
  charged_.fetch_add(pages, std::memory_order_relaxed);
}

void SlotTable::uncharge(std::uint64_t pages) {
  budget_->uncharge_metadata({pages});
  charged_.fetch_sub(pages, std::memory_order_relaxed);
}

// --- references ---

void SlotTable::reference(std::uint32_t slot) {
  POLDER_CHECK(slot < capacity_, "no such slot", slot, capacity_);
  const std::uint16_t before = counts_[slot].fetch_add(1, std::memory_order_relaxed);
  POLDER_CHECK(before != 0 && before < kMaxReferences, "reference to a slot that has none, or too many", slot, before);
}

// Every access of a referring thread to the slot happens before its reuse: the chain is count (release, acquire by the
// last one), free (release), allocate (acquire). The count of used slots goes last, so that a file whose count is zero
// has nobody in here.
void SlotTable::release(std::uint32_t slot) {
  POLDER_CHECK(slot < capacity_, "no such slot", slot, capacity_);
  const std::uint16_t before = counts_[slot].fetch_sub(1, std::memory_order_acq_rel);
  POLDER_CHECK(before != 0 && before != kBad, "slot released more often than referenced", slot);
  if (before != 1) return;
  const std::uint32_t cluster = slot / kClusterSlots;
  const std::uint64_t mask = bit_of(slot);
  Cluster& state = clusters_[cluster];
  if ((state.held.load(std::memory_order_seq_cst) & mask) == 0) {
    set_free(cluster, mask);
  } else {
    // Either this thread sees that the hold has ended, or release_hold() sees the retired bit: both sides store, then
    // load, sequentially consistent.
    state.retired.fetch_or(mask, std::memory_order_seq_cst);
    if ((state.held.load(std::memory_order_seq_cst) & mask) == 0) unswept_.store(true, std::memory_order_release);
  }
  const std::uint32_t used = used_.fetch_sub(1, std::memory_order_release);
  POLDER_CHECK(used != 0, "more slots released than used", slot);
}

const PageHash& SlotTable::hash(std::uint32_t slot) const {
  POLDER_CHECK(slot < capacity_, "no such slot", slot, capacity_);
  return hashes_[slot];
}

void SlotTable::set_hash(std::uint32_t slot, const PageHash& hash) {
  POLDER_CHECK(slot < frontier() && counts_[slot].load(std::memory_order_relaxed) != 0, "hash for a free slot", slot);
  hashes_[slot] = hash;
  clusters_[slot / kClusterSlots].written |= bit_of(slot);
}

void SlotTable::mark_bad(std::uint32_t slot) {
  std::uint16_t only = 1;
  POLDER_CHECK(slot < frontier() && counts_[slot].compare_exchange_strong(only, kBad, std::memory_order_relaxed),
               "slot is shared", slot, only);
  bad_.fetch_add(1, std::memory_order_relaxed);
  used_.fetch_sub(1, std::memory_order_release);
}

void SlotTable::forgive_bad() {
  const std::uint32_t slots = bad() != 0 ? frontier() : 0;
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    if (counts_[slot].load(std::memory_order_relaxed) != kBad) continue;
    counts_[slot].store(1, std::memory_order_relaxed);
    bad_.fetch_sub(1, std::memory_order_relaxed);
    used_.fetch_add(1, std::memory_order_relaxed);
    release(slot);
  }
}

// Hints follow the bitmap: set after it (here), cleared before it is looked at once more (refresh_hints).
void SlotTable::set_free(std::uint32_t cluster, std::uint64_t mask) {
  Group& group = groups_[cluster / 64];
  const std::uint64_t before = clusters_[cluster].free.fetch_or(mask, std::memory_order_seq_cst);
  POLDER_CHECK((before & mask) == 0, "slot freed twice", cluster, before, mask);
  if (before == 0) group.some.fetch_or(bit_of(cluster), std::memory_order_seq_cst);
  if ((before | mask) == kAll) group.whole.fetch_or(bit_of(cluster), std::memory_order_seq_cst);
}

// --- holds ---

Result<SlotHold*> SlotTable::hold_used() {
  const std::uint32_t clusters = frontier() / kClusterSlots;
  const std::size_t size = bytes(pages_up(sizeof(SlotHold) + clusters * sizeof(std::uint64_t)));
  const Result<char*> memory = os::map_private(size);
  if (!memory.ok()) return {nullptr, memory.error};
  charge(pages_up(size).value);
  auto* hold = reinterpret_cast<SlotHold*>(memory.value);
  *hold = {.next = holds_, .size = size, .clusters = clusters, .lifeline = -1};
  holds_ = hold;
  for (std::uint32_t i = 0; i < clusters; ++i) {
    Cluster& state = clusters_[i];
    // A slot that is being released right now may be held or not: the child's page words do not name it.
    const std::uint64_t used =
        ~(state.free.load(std::memory_order_acquire) | state.retired.load(std::memory_order_acquire));
    hold->used()[i] = used;
    if (used != 0) state.held.fetch_or(used, std::memory_order_seq_cst);
  }
  return success(hold);
}

void SlotTable::release_hold(SlotHold* hold) {
  SlotHold** link = &holds_;
  while (*link != nullptr && *link != hold) link = &(*link)->next;
  POLDER_CHECK(*link == hold, "no such hold", hold);
  *link = hold->next;
  for (std::uint32_t i = 0; i < hold->clusters; ++i) {
    if (hold->used()[i] == 0) continue;
    std::uint64_t kept = 0;
    for (SlotHold* other = holds_; other != nullptr; other = other->next) {
      if (i < other->clusters) kept |= other->used()[i];
    }
    clusters_[i].held.store(kept, std::memory_order_seq_cst);
  }
  const std::size_t size = hold->size;
  os::release(hold, size);
  uncharge(pages_up(size).value);
  sweep_retired();
}

void SlotTable::sweep_retired() {
  unswept_.store(false, std::memory_order_seq_cst);
  const std::uint32_t clusters = frontier() / kClusterSlots;
  for (std::uint32_t i = 0; i < clusters; ++i) {
    Cluster& state = clusters_[i];
    const std::uint64_t over =
        state.retired.load(std::memory_order_seq_cst) & ~state.held.load(std::memory_order_seq_cst);
    if (over == 0) continue;
    state.retired.fetch_and(~over, std::memory_order_seq_cst);
    set_free(i, over);
  }
}

void SlotTable::forget_holds() {
  while (holds_ != nullptr) {
    SlotHold* const hold = holds_;
    holds_ = hold->next;
    const std::size_t size = hold->size;
    os::release(hold, size);
    uncharge(pages_up(size).value);
  }
  const std::uint32_t clusters = frontier() / kClusterSlots;
  for (std::uint32_t i = 0; i < clusters; ++i) {
    if (clusters_[i].held.load(std::memory_order_relaxed) != 0) clusters_[i].held.store(0, std::memory_order_relaxed);
  }
}

// --- forked child ---

void SlotTable::clear_counts() {
  POLDER_CHECK(holds_ == nullptr, "counts cleared under a hold");
  const std::uint32_t slots = frontier();
  for (std::uint32_t slot = 0; slot < slots; ++slot) {
    if (counts_[slot].load(std::memory_order_relaxed) != 0) counts_[slot].store(0, std::memory_order_relaxed);
  }
  for (std::uint32_t i = 0; i < slots / kClusterSlots; ++i) {
    clusters_[i].free.store(kAll, std::memory_order_relaxed);
    clusters_[i].retired.store(0, std::memory_order_relaxed);
    clusters_[i].held.store(0, std::memory_order_relaxed);
    groups_[i / 64].whole.fetch_or(bit_of(i), std::memory_order_relaxed);
    groups_[i / 64].some.fetch_or(bit_of(i), std::memory_order_relaxed);
  }
  used_.store(0, std::memory_order_relaxed);
  bad_.store(0, std::memory_order_relaxed);
  unswept_.store(false, std::memory_order_relaxed);
}

void SlotTable::recount(std::uint32_t slot) {
  POLDER_CHECK(slot < frontier(), "page refers to a slot that was never used", slot);
  const std::uint16_t before = counts_[slot].fetch_add(1, std::memory_order_relaxed);
  POLDER_CHECK(before < kMaxReferences, "too many references to a slot", slot);
  if (before != 0) return;
  clusters_[slot / kClusterSlots].free.fetch_and(~bit_of(slot), std::memory_order_relaxed);
  used_.fetch_add(1, std::memory_order_relaxed);
}

// --- verification ---

void SlotTable::verify() const {
  std::uint32_t used = 0;
  std::uint32_t bad = 0;
  const std::uint32_t slots = frontier();
  POLDER_CHECK(slots <= capacity_ && slots % kClusterSlots == 0 && cursor_ <= slots, "frontier", slots, cursor_);
  std::uint64_t charged = table_pages(slots);
  for (std::uint32_t cluster = 0; cluster < slots / kClusterSlots; ++cluster) {
    const Cluster& state = clusters_[cluster];
    const Group& group = groups_[cluster / 64];
    const std::uint64_t free = state.free.load(std::memory_order_relaxed);
    const std::uint64_t retired = state.retired.load(std::memory_order_relaxed);
    POLDER_CHECK((free & retired) == 0, "slot both free and retired", cluster, free, retired);
    for (std::uint32_t i = 0; i < kClusterSlots; ++i) {
      const std::uint32_t slot = cluster * kClusterSlots + i;
      const std::uint16_t count = counts_[slot].load(std::memory_order_relaxed);
      const bool referenced = count != 0;
      POLDER_CHECK(referenced == (((free | retired) >> i & 1) == 0), "slot count contradicts its bits", slot);
      used += referenced && count != kBad;
      bad += count == kBad;
    }
    POLDER_CHECK(free != kAll || (group.whole.load(std::memory_order_relaxed) & bit_of(cluster)) != 0,
                 "free cluster without hint", cluster);
    POLDER_CHECK(free == 0 || (group.some.load(std::memory_order_relaxed) & bit_of(cluster)) != 0,
                 "cluster with free slots without hint", cluster);
    std::uint64_t held = 0;
    for (SlotHold* hold = holds_; hold != nullptr; hold = hold->next) {
      if (cluster < hold->clusters) held |= hold->used()[cluster];
    }
    POLDER_CHECK(held == state.held.load(std::memory_order_relaxed), "held bits are not the union of the holds",
                 cluster);
    const std::uint32_t section = cluster * kClusterSlots / kSectionSlots;
    const bool backed = (groups_[cluster / 64].backed & bit_of(section % (kGroupSlots / kSectionSlots))) != 0;
    POLDER_CHECK(backed || (free == kAll && state.written == 0), "slots in use in a section without hashes", cluster);
    if (backed && cluster * kClusterSlots % kSectionSlots == 0) ++charged;
  }
  POLDER_CHECK(used == used_.load(std::memory_order_relaxed), "used slots miscounted", used,
               used_.load(std::memory_order_relaxed));
  POLDER_CHECK(bad == bad_.load(std::memory_order_relaxed), "bad slots miscounted", bad,
               bad_.load(std::memory_order_relaxed));
  for (SlotHold* hold = holds_; hold != nullptr; hold = hold->next) charged += pages_up(hold->size).value;
  POLDER_CHECK(charged == charged_.load(std::memory_order_relaxed), "slot state charged wrongly", charged,
               charged_.load(std::memory_order_relaxed));
}

}  // namespace polder
