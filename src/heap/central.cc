#include "heap/central.h"

#include <bit>

#include "base/check.h"
#include "base/fatal.h"

namespace polder {

namespace {

// The spare of a class with few slabs would be much of what the class has.
constexpr std::uint64_t kSlabsPerSpare = 8;

}  // namespace

unsigned Central::list_for(const Slab& slab) {
  if (slab.free == 0) return Slab::kNoList;
  if (slab.free == slab.capacity) return kEmptyList;
  return (slab.capacity - slab.free) * kFullnessCount / slab.capacity;
}

void Central::link_locked(Slab* slab, unsigned list) {
  slab->list = static_cast<std::uint8_t>(list);
  if (list == Slab::kNoList) return;
  slab->previous = nullptr;
  slab->next = lists_[list];
  if (slab->next != nullptr) slab->next->previous = slab;
  lists_[list] = slab;
  if (list == kEmptyList) ++empty_count_;
}

void Central::unlink_locked(Slab* slab) {
  if (slab->list == Slab::kNoList) return;
  if (slab->previous != nullptr) {
    slab->previous->next = slab->next;
  } else {
    POLDER_CHECK(lists_[slab->list] == slab, "slab is not on its list", slab, slab->list);
    lists_[slab->list] = slab->next;
  }
  if (slab->next != nullptr) slab->next->previous = slab->previous;
  if (slab->list == kEmptyList) --empty_count_;
  slab->list = Slab::kNoList;
}

void Central::relist_locked(Slab* slab) {
  const unsigned list = list_for(*slab);
  if (list == slab->list) return;
  unlink_locked(slab);
  link_locked(slab, list);
}

unsigned Central::take_locked(void** objects, unsigned wanted, Random* random) {
  unsigned taken = 0;
  unsigned list = kFullnessCount;  // the lists in order: fullest first, the empty slabs last
  while (taken < wanted) {
    while (list > 0 && lists_[list - 1] == nullptr) --list;
    Slab* const slab = list > 0 ? lists_[list - 1] : lists_[kEmptyList];
    if (slab == nullptr) break;
    taken += random == nullptr ? slab->take(map_->arena(), objects + taken, wanted - taken)
                               : slab->take_at_random(map_->arena(), objects + taken, wanted - taken, *random);
    relist_locked(slab);
  }
  add_free_objects(-std::uint64_t{taken});
  if (taken > 0) ++refills_;
  return taken;
}

unsigned Central::take(void** objects, unsigned wanted, Random* random) {
  const os::MutexLock lock(mutex_);
  return take_locked(objects, wanted, random);
}

unsigned Central::adopt(Slab* slab, void** objects, unsigned wanted, Random* random) {
  const os::MutexLock lock(mutex_);
  slab->shard.store(shard_, std::memory_order_relaxed);
  map_->set_header(slab->first, {info_of(size_class_).granules}, kind_of(size_class_), slab);
  slabs_.store(slabs() + 1, std::memory_order_relaxed);
  add_free_objects(slab->free);
  link_locked(slab, kEmptyList);
  return take_locked(objects, wanted, random);
}

void Central::retire_locked(Slab* slab, Slab** released) {
  unlink_locked(slab);
  map_->set_kinds(slab->first, {info_of(size_class_).granules}, GranuleKind::retired);
  slabs_.store(slabs() - 1, std::memory_order_relaxed);
  add_free_objects(-std::uint64_t{slab->capacity});
  slab->next = *released;
  *released = slab;
}

unsigned Central::give(void* const* objects, unsigned count, Spare spare, Slab** released) {
  const SizeClassInfo& info = info_of(size_class_);
  const Arena& arena = map_->arena();

  const os::MutexLock lock(mutex_);
  unsigned next = 0;
  while (next < count) {
    // One slab after the other, neighbours in the bitmap together.
    const GranuleId granule = map_->granule(objects[next]);
    if (map_->kind(granule) != kind_of(size_class_)) report_double_free(objects[next]);
    Slab* const slab = map_->slab(granule);
    if (slab->shard.load(std::memory_order_relaxed) != shard_) break;
    const char* const base = arena.address(slab->first);
    const std::size_t length = info.granules * kGranuleSize;
    unsigned word = 0;
    std::uint64_t bits = 0;
    for (; next < count; ++next) {
      const auto offset = static_cast<std::size_t>(static_cast<const char*>(objects[next]) - base);
      if (offset >= length) break;
      const std::uint32_t index = object_index(info, static_cast<std::uint32_t>(offset));
      if (index >= slab->capacity || std::size_t{index} * info.size != offset) {
        report_interior_pointer("free", objects[next]);
      }
      if (index / 64 != word) {
        if (const std::uint64_t already = slab->give(word, bits); already != 0) {
          report_double_free(base +
                             (word * 64 + static_cast<unsigned>(std::countr_zero(already))) * std::size_t{info.size});
        }
        word = index / 64;
        bits = 0;
      }
      const std::uint64_t bit = std::uint64_t{1} << (index % 64);
      if ((bits & bit) != 0) report_double_free(objects[next]);
      bits |= bit;
      if (hardening_ == Hardening::on) slab->end_quarantine(index);
    }
    if (const std::uint64_t already = slab->give(word, bits); already != 0) {
      report_double_free(base +
                         (word * 64 + static_cast<unsigned>(std::countr_zero(already))) * std::size_t{info.size});
    }
    relist_locked(slab);
  }
  if (next == 0) return 0;
  add_free_objects(next);
  ++flushes_;
  while (empty_count_ > 1 || (empty_count_ == 1 && !keeps_locked(*lists_[kEmptyList], spare))) {
    retire_locked(lists_[kEmptyList], released);
  }
  return next;
}

bool Central::keeps_locked(const Slab& empty, Spare spare) const {
  if (spare == Spare::none) return false;
  return slabs() >= kSlabsPerSpare || std::size_t{empty.taken_end} * info_of(size_class_).size <= kPageSize;
}

bool Central::take_over(Central& other) POLDER_NO_THREAD_SAFETY_ANALYSIS {
  Central& first = shard_ < other.shard_ ? *this : other;
  Central& second = shard_ < other.shard_ ? other : *this;
  const os::MutexLock lock(first.mutex_);
  second.mutex_.lock_same_rank();
  const bool taken_over = take_over_locked(other);
  second.mutex_.unlock();
  return taken_over;
}

// The slab with the most free objects: the two threads' objects mix least, and the next refill is far away.
bool Central::take_over_locked(Central& other) {
  unsigned list = 0;  // the lists in order: the empty slabs last, so that they can go back
  while (list < kEmptyList && other.lists_[list] == nullptr) ++list;
  Slab* const slab = other.lists_[list];
  if (slab == nullptr) return false;
  other.unlink_locked(slab);
  other.add_free_objects(-std::uint64_t{slab->free});
  other.slabs_.store(other.slabs() - 1, std::memory_order_relaxed);
  slab->shard.store(shard_, std::memory_order_relaxed);
  slabs_.store(slabs() + 1, std::memory_order_relaxed);
  add_free_objects(slab->free);
  link_locked(slab, list_for(*slab));
  return true;
}

// Null, and the index undefined, where the object is not in use. Ends the program with a report where there is none.
Slab* Central::slab_in_use_locked(const char* operation, const void* object, unsigned* index) const {
  const GranuleId granule = map_->granule(object);
  if (map_->kind(granule) != kind_of(size_class_)) return nullptr;
  Slab* const slab = map_->slab(granule);
  const auto offset = static_cast<const char*>(object) - map_->arena().address(slab->first);
  *index = object_index(info_of(size_class_), static_cast<std::uint32_t>(offset));
  if (*index >= slab->capacity) report_interior_pointer(operation, object);
  return slab->is_in_use(*index) ? slab : nullptr;
}

void Central::begin_quarantine(const void* object) {
  const os::MutexLock lock(mutex_);
  unsigned index;
  Slab* const slab = slab_in_use_locked("free", object, &index);
  if (slab == nullptr) report_double_free(object);
  slab->begin_quarantine(index);
}

void Central::require_in_use(const char* operation, const void* object) const {
  const os::MutexLock lock(mutex_);
  unsigned index;
  if (slab_in_use_locked(operation, object, &index) == nullptr) report_freed_pointer(operation, object);
}

void Central::give_up_empty(Slab** released) {
  const os::MutexLock lock(mutex_);
  while (empty_count_ > 0) retire_locked(lists_[kEmptyList], released);
}

void Central::verify_locked() const {
  std::uint64_t free = 0;
  std::uint64_t empty = 0;
  for (unsigned list = 0; list < kListCount; ++list) {
    const Slab* previous = nullptr;
    for (const Slab* slab = lists_[list]; slab != nullptr; previous = slab, slab = slab->next) {
      POLDER_CHECK(slab->previous == previous, "slab list is torn", slab, list);
      POLDER_CHECK(slab->list == list && list_for(*slab) == list, "slab is on the wrong list", slab, list);
      POLDER_CHECK(slab->size_class == size_class_, "slab is on another class's list", slab, list);
      POLDER_CHECK(slab->shard.load(std::memory_order_relaxed) == shard_, "slab is on another shard's list", slab,
                   list);
      slab->verify(hardening_);
      free += slab->free;
      if (list == kEmptyList) ++empty;
    }
  }
  POLDER_CHECK(free == free_objects(), "central's count of free objects is wrong", free, free_objects());
  POLDER_CHECK(empty == empty_count_, "central's count of empty slabs is wrong", empty, empty_count_);
}

}  // namespace polder
