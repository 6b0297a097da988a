#include "store/pattern_table.h"

#include <cstring>

#include "base/check.h"
#include "os/mapping.h"
#include "vm/budget.h"

namespace polder {

std::optional<std::uint64_t> same_filled(const void* page) {
  constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);
  constexpr std::size_t kStride = 32;  // words compared between two decisions: wide enough for vector code
  const auto* words = static_cast<const std::uint64_t*>(page);
  const std::uint64_t first = words[0];
  // Most pages differ at their ends or in the middle already.
  if (words[kWords - 1] != first || words[kWords / 2] != first || words[1] != first) return std::nullopt;
  for (std::size_t start = 0; start < kWords; start += kStride) {
    std::uint64_t difference = 0;
    for (std::size_t i = 0; i < kStride; ++i) difference |= words[start + i] ^ first;
    if (difference != 0) return std::nullopt;
  }
  return first;
}

PatternTable::~PatternTable() {
  if (tables_ == nullptr) return;
  os::release(tables_, sizeof(Tables));
  budget_.uncharge_metadata(pages_up(sizeof(Tables)));
}

// Multiplicative hashing by the golden ratio (Knuth, TAOCP 6.4); the high bits are the good ones.
std::uint32_t PatternTable::home(std::uint64_t word) {
  return static_cast<std::uint32_t>(((word ^ (word >> 32)) * 0x9E3779B97F4A7C15U) >> 51) & (kIndexSize - 1);
}

std::optional<std::uint32_t> PatternTable::find(std::uint64_t word) const {
  for (std::uint32_t place = home(word); tables_->index[place] != 0; place = (place + 1) & (kIndexSize - 1)) {
    const std::uint32_t entry = tables_->index[place] - 1U;
    if (tables_->words[entry] == word) return entry;
  }
  return std::nullopt;
}

void PatternTable::insert(std::uint32_t entry) {
  std::uint32_t place = home(tables_->words[entry]);
  while (tables_->index[place] != 0) place = (place + 1) & (kIndexSize - 1);
  tables_->index[place] = static_cast<std::uint16_t>(entry + 1);
}

// Makes room when every entry is occupied; the index is built anew, since entries leave it from anywhere.
bool PatternTable::drop_unreferenced() {
  const std::uint32_t before = used_;
  for (std::uint32_t entry = 0; entry < kCapacity; ++entry) {
    // Acquire pairs with release(): whoever dropped the last reference has finished with the word.
    if (tables_->counts[entry].load(std::memory_order_acquire) != 0) continue;
    occupied_[entry / 64] &= ~(std::uint64_t{1} << (entry % 64));
    --used_;
  }
  if (used_ == before) return false;
  std::memset(tables_->index, 0, sizeof tables_->index);
  for (std::uint32_t entry = 0; entry < kCapacity; ++entry) {
    if ((occupied_[entry / 64] >> (entry % 64) & 1) != 0) insert(entry);
  }
  free_hint_ = 0;
  return true;
}

std::optional<std::uint32_t> PatternTable::add(std::uint64_t word) {
  if (tables_ == nullptr) {
    const Result<char*> memory = os::map_private(sizeof(Tables));
    if (!memory.ok()) return std::nullopt;
    budget_.charge_metadata(pages_up(sizeof(Tables)));
    tables_ = reinterpret_cast<Tables*>(memory.value);
  }
  if (const auto entry = find(word)) {
    // From zero too: an entry without references is nobody's but ours.
    const std::uint32_t before = tables_->counts[*entry].fetch_add(1, std::memory_order_relaxed);
    POLDER_CHECK(before != kMaxReferences, "pattern reference count overflows", *entry);
    return entry;
  }
  if (used_ == kCapacity && !drop_unreferenced()) return std::nullopt;
  std::uint32_t entry = free_hint_;
  while ((occupied_[entry / 64] >> (entry % 64) & 1) != 0) entry = (entry + 1) % kCapacity;
  free_hint_ = (entry + 1) % kCapacity;
  POLDER_CHECK(tables_->counts[entry].load(std::memory_order_relaxed) == 0, "free pattern entry is referenced", entry);
  occupied_[entry / 64] |= std::uint64_t{1} << (entry % 64);
  ++used_;
  tables_->words[entry] = word;
  tables_->counts[entry].store(1, std::memory_order_relaxed);
  insert(entry);
  return entry;
}

std::uint64_t PatternTable::word(std::uint32_t entry) const {
  POLDER_CHECK(entry < kCapacity && tables_ != nullptr, "no such pattern", entry);
  POLDER_DCHECK(tables_->counts[entry].load(std::memory_order_relaxed) != 0, "pattern without reference", entry);
  return tables_->words[entry];
}

void PatternTable::reference(std::uint32_t entry) {
  POLDER_CHECK(entry < kCapacity && tables_ != nullptr, "no such pattern", entry);
  const std::uint32_t before = tables_->counts[entry].fetch_add(1, std::memory_order_relaxed);
  POLDER_CHECK(before != 0 && before != kMaxReferences, "reference to a pattern that has none, or too many", entry,
               before);
}

void PatternTable::release(std::uint32_t entry) {
  POLDER_CHECK(entry < kCapacity && tables_ != nullptr, "no such pattern", entry);
  // Release pairs with the acquire in drop_unreferenced().
  const std::uint32_t before = tables_->counts[entry].fetch_sub(1, std::memory_order_release);
  POLDER_CHECK(before != 0, "pattern released more often than referenced", entry);
}

void PatternTable::clear_counts() {
  if (tables_ == nullptr) return;
  for (auto& count : tables_->counts) count.store(0, std::memory_order_relaxed);
}

void PatternTable::recount(std::uint32_t entry) {
  POLDER_CHECK(entry < kCapacity && tables_ != nullptr, "no such pattern", entry);
  POLDER_CHECK((occupied_[entry / 64] >> (entry % 64) & 1) != 0, "pattern entry without a word", entry);
  tables_->counts[entry].fetch_add(1, std::memory_order_relaxed);
}

PatternTable::Statistics PatternTable::statistics() const {
  Statistics result;
  if (tables_ == nullptr) return result;
  for (const auto& counter : tables_->counts) {
    const std::uint32_t count = counter.load(std::memory_order_relaxed);
    result.words += count != 0;
    result.references += count;
  }
  return result;
}

void PatternTable::verify() const {
  if (tables_ == nullptr) return;
  std::uint32_t occupied = 0;
  for (std::uint32_t entry = 0; entry < kCapacity; ++entry) {
    if ((occupied_[entry / 64] >> (entry % 64) & 1) == 0) {
      POLDER_CHECK(tables_->counts[entry].load(std::memory_order_relaxed) == 0, "free pattern entry is referenced",
                   entry);
      continue;
    }
    ++occupied;
    POLDER_CHECK(find(tables_->words[entry]) == entry, "pattern is not found, or twice in the table", entry);
  }
  POLDER_CHECK(occupied == used_, "pattern table miscounts its entries", occupied, used_);
  std::uint32_t indexed = 0;
  for (const std::uint16_t place : tables_->index) indexed += place != 0;
  POLDER_CHECK(indexed == used_, "pattern index holds strangers", indexed, used_);
}

}  // namespace polder
