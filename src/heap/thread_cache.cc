#include "heap/thread_cache.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#include "base/check.h"
#include "vm/metadata.h"

namespace polder {

namespace {

// Between two looks for what is idle. A refill or flush counts for one, and one more for each page of objects: who grows
// by large objects must not have grown by much before the small ones are found.
constexpr std::uint32_t kUsesPerSweep = 256;

// Never written: the magazines that point here miss.
void* const kNullSlot = nullptr;

}  // namespace

constexpr ThreadCache::ThreadCache() {
  for (unsigned kind = 0; kind < kGranuleKindCount; ++kind) {
    Magazine& magazine = magazines_[kind];
    magazine.top = const_cast<void**>(&kNullSlot);
    magazine.limit = magazine.top;
    if (kind == 0 || kind > kSizeClassCount) continue;
    magazine.start_test = kSizeClasses[kind].start_test;
    magazine.start_limit = kSizeClasses[kind].start_limit;
    magazine.offset_mask = static_cast<std::uint32_t>(kSizeClasses[kind].granules * kGranuleSize - 1);
  }
}

constinit const ThreadCache ThreadCache::kEmpty;

ThreadCache* ThreadCache::create(MetadataPool& pool) {
  void* const memory = pool.allocate(sizeof(ThreadCache));
  if (memory == nullptr) return nullptr;
  std::memcpy(memory, &kEmpty, sizeof(ThreadCache));
  return static_cast<ThreadCache*>(memory);
}

void ThreadCache::destroy(MetadataPool& pool) {
  for (std::uint64_t present = present_; present != 0; present &= present - 1) {
    const auto index = static_cast<unsigned>(std::countr_zero(present)) + 1;
    POLDER_CHECK(capacity_[index] != kOutgoing, "cache is destroyed with objects to give back", index);
    pool.free(base({static_cast<std::uint8_t>(index)}), (capacity_[index] + std::size_t{1}) * sizeof(void*));
  }
  if (spans_ != nullptr) {
    POLDER_CHECK(spans_->empty(), "cache is destroyed with spans to give back", this);
    pool.free(spans_, sizeof(SpanCache));
  }
  pool.free(this, sizeof(ThreadCache));
}

SpanCache* ThreadCache::create_spans(MetadataPool& pool) {
  if (spans_ != nullptr) return spans_;
  void* const memory = pool.allocate(sizeof(SpanCache));
  if (memory != nullptr) spans_ = new (memory) SpanCache;
  return spans_;
}

bool ThreadCache::put_outgoing(MetadataPool& pool, SizeClass size_class, void* pointer) {
  Magazine& magazine = magazines_[size_class.index];
  std::uint16_t& capacity = capacity_[size_class.index];
  if (capacity == 0) {
    auto** const storage = static_cast<void**>(pool.allocate((kFirstCapacity + std::size_t{1}) * sizeof(void*)));
    if (storage == nullptr) return false;
    magazine.top = magazine.limit = storage + kFirstCapacity;
    capacity = kOutgoing;
    present_ |= bit_of(size_class);
  }
  if (capacity != kOutgoing) return false;
  void** slot = outgoing(size_class);
  while (slot != magazine.limit && *slot != nullptr) ++slot;
  if (slot == magazine.limit) return false;
  *slot = pointer;
  return true;
}

unsigned ThreadCache::end_outgoing(SizeClass size_class, Outgoing& objects) {
  if (!is_outgoing(size_class)) return 0;
  void** const storage = outgoing(size_class);
  unsigned number = 0;
  while (number < kFirstCapacity && storage[number] != nullptr) {
    objects[number] = storage[number];
    ++number;
  }
  storage[0] = nullptr;
  magazines_[size_class.index].top = storage;
  capacity_[size_class.index] = kFirstCapacity;
  return number;
}

unsigned ThreadCache::count(SizeClass size_class) const {
  if (is_outgoing(size_class)) return 0;
  return static_cast<unsigned>(magazines_[size_class.index].top - base(size_class));
}

void ThreadCache::grow(MetadataPool& pool, SizeClass size_class, unsigned most) {
  const unsigned before = capacity(size_class);
  const unsigned after = std::min(most, before == 0 ? kFirstCapacity : 2 * before + 1);
  if (after > before) set_capacity(pool, size_class, after, Room::usual);
}

void ThreadCache::grow_empty(MetadataPool& pool, SizeClass size_class, unsigned most) {
  const bool was_full = (was_full_ & bit_of(size_class)) != 0;
  was_full_ &= ~bit_of(size_class);
  const unsigned after = std::min(2 * capacity(size_class) + 1, info_of(size_class).large_magazine);
  const bool larger = after > std::max(most, capacity(size_class));
  if (was_full && larger && spare_of(size_class, after) <= spare_bytes_ + spare_taken(size_class)) {
    set_capacity(pool, size_class, after, Room::stretched);
  } else {
    grow(pool, size_class, most);
  }
}

void ThreadCache::shrink_empty(MetadataPool& pool, SizeClass size_class) {
  if (spare_taken(size_class) != 0) set_capacity(pool, size_class, info_of(size_class).magazine, Room::usual);
}

std::uint32_t ThreadCache::spare_of(SizeClass size_class, unsigned capacity) {
  const SizeClassInfo& info = info_of(size_class);
  return capacity <= info.magazine ? 0 : (capacity - info.magazine) * info.size;
}

std::uint32_t ThreadCache::spare_taken(SizeClass size_class) const {
  return (stretched_ & bit_of(size_class)) == 0 ? 0 : spare_of(size_class, capacity(size_class));
}

void ThreadCache::set_capacity(MetadataPool& pool, SizeClass size_class, unsigned after, Room room) {
  const unsigned before = capacity(size_class);
  auto** const storage = static_cast<void**>(pool.allocate((after + std::size_t{1}) * sizeof(void*)));
  if (storage == nullptr) return;
  spare_bytes_ += spare_taken(size_class);
  stretched_ &= ~bit_of(size_class);
  const unsigned held = count(size_class);
  void** const old_storage = base(size_class);
  std::memcpy(storage, old_storage, (held + std::size_t{1}) * sizeof(void*));
  present_ |= bit_of(size_class);
  magazines_[size_class.index].top = storage + held;
  magazines_[size_class.index].limit = storage + after;
  capacity_[size_class.index] = static_cast<std::uint16_t>(after);
  if (room == Room::stretched) {
    stretched_ |= bit_of(size_class);
    spare_bytes_ -= spare_taken(size_class);
  }
  if (before != 0) pool.free(old_storage, (before + std::size_t{1}) * sizeof(void*));
}

void ThreadCache::hand_over() {
  for (std::uint64_t present = present_; present != 0; present &= present - 1) {
    const SizeClass size_class{static_cast<std::uint8_t>(std::countr_zero(present) + 1)};
    swept_count_[size_class.index - 1] = static_cast<std::uint16_t>(count(size_class));
    magazines_[size_class.index].start_limit = 0;
  }
  handed_over_ = present_;
  used_ = 0;
  was_full_ = 0;
}

bool ThreadCache::claim_used(SizeClass size_class) {
  if (count(size_class) >= swept_count_[size_class.index - 1]) return false;
  claim(size_class);
  return true;
}

void ThreadCache::claim(SizeClass size_class) {
  handed_over_ &= ~bit_of(size_class);
  magazines_[size_class.index].start_limit = info_of(size_class).start_limit;
}

void ThreadCache::remove_empty(MetadataPool& pool, SizeClass size_class) {
  POLDER_CHECK(count(size_class) == 0, "magazine is removed with objects in it", size_class.index);
  spare_bytes_ += spare_taken(size_class);
  stretched_ &= ~bit_of(size_class);
  pool.free(base(size_class), (capacity(size_class) + std::size_t{1}) * sizeof(void*));
  Magazine& magazine = magazines_[size_class.index];
  magazine.top = magazine.limit = const_cast<void**>(&kNullSlot);
  capacity_[size_class.index] = 0;
  present_ &= ~bit_of(size_class);
  was_full_ &= ~bit_of(size_class);
  claim(size_class);
}

std::size_t ThreadCache::bytes_of_room() const {
  std::size_t bytes = 0;
  for (std::uint64_t present = present_; present != 0; present &= present - 1) {
    const SizeClass size_class{static_cast<std::uint8_t>(std::countr_zero(present) + 1)};
    bytes += std::size_t{is_outgoing(size_class) ? kFirstCapacity : capacity(size_class)} * info_of(size_class).size;
  }
  return bytes;
}

void ThreadCache::push(SizeClass size_class, unsigned added) {
  Magazine& magazine = magazines_[size_class.index];
  POLDER_CHECK(added <= static_cast<std::size_t>(magazine.limit - magazine.top), "magazine overflows", added);
  std::reverse(magazine.top + 1, magazine.top + 1 + added);
  magazine.top += added;
}

void ThreadCache::drop_oldest(SizeClass size_class, unsigned dropped) {
  const unsigned held = count(size_class);
  POLDER_CHECK(dropped <= held, "magazine underflows", dropped, held);
  void** const first = base(size_class) + 1;
  std::memmove(first, first + dropped, (held - dropped) * sizeof(void*));
  magazines_[size_class.index].top -= dropped;
  if (is_handed_over(size_class)) swept_count_[size_class.index - 1] -= static_cast<std::uint16_t>(dropped);
}

bool ThreadCache::note_use(SizeClass size_class, unsigned objects) {
  used_ |= bit_of(size_class);
  return note_use(PageCount{objects * info_of(size_class).size / kPageSize});
}

bool ThreadCache::note_use(PageCount pages) {
  uses_ += 1 + static_cast<std::uint32_t>(pages.value);
  if (uses_ < kUsesPerSweep) return false;
  uses_ = 0;
  return true;
}

std::uint64_t ThreadCache::idle_classes() {
  static_assert(kSizeClassCount <= 64);
  std::uint64_t idle = 0;
  for (std::uint64_t present = present_; present != 0; present &= present - 1) {
    const SizeClass size_class{static_cast<std::uint8_t>(std::countr_zero(present) + 1)};
    if (is_handed_over(size_class)) claim_used(size_class);  // before the counts are the same
    const unsigned held = count(size_class);
    std::uint16_t& swept = swept_count_[size_class.index - 1];
    const bool keeps = held != 0 || (stretched_ & bit_of(size_class)) != 0;
    if (keeps && held == swept && (used_ & bit_of(size_class)) == 0) idle |= bit_of(size_class);
    swept = static_cast<std::uint16_t>(held);
  }
  used_ = 0;
  return idle;
}

bool ThreadCache::is_freed_twice(GranuleKind kind, const void* pointer) const {
  const Magazine& magazine = magazines_[static_cast<unsigned>(kind)];
  if (capacity_[static_cast<unsigned>(kind)] == kOutgoing) {
    void* const* const storage = magazine.limit - kFirstCapacity;
    return std::find(storage, static_cast<void* const*>(magazine.limit), pointer) != magazine.limit;
  }
  if (!kVerifyBuild && !is_handed_over(class_of(kind))) return *magazine.top == pointer;
  void* const* slot = magazine.top;
  while (*slot != nullptr && *slot != pointer) --slot;
  return *slot == pointer;
}

}  // namespace polder
