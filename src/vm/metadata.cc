#include "vm/metadata.h"

#include <bit>
#include <cstring>
#include <new>

#include "base/check.h"
#include "vm/budget.h"

namespace polder {

char* MetadataSpace::take(std::size_t size) {
  const std::size_t rounded = (size + kPageSize - 1) & ~(kPageSize - 1);
  POLDER_CHECK(rounded >= size && rounded <= static_cast<std::size_t>(end_ - next_), "metadata space is too small",
               size, static_cast<std::size_t>(end_ - next_));
  char* const taken = next_;
  next_ += rounded;
  return taken;
}

namespace {

// Memory becomes accessible in steps of this size: an mprotect call per 64 pages of charge.
constexpr std::size_t kCommitStep = std::size_t{256} << 10;

constexpr std::size_t round_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

MetadataPool::MetadataPool(char* base, std::size_t size, Budget& budget)
    : base_(base), size_(size), budget_(budget), next_(base), committed_(base), charged_(base) {
  POLDER_CHECK(reinterpret_cast<std::uintptr_t>(base) % kPageSize == 0 && size % kPageSize == 0,
               "metadata pool is not page aligned", base, size);
}

unsigned MetadataPool::class_of(std::size_t size) {
  static_assert(size_of(kSteps - 1) == 512 && size_of(kSteps) == 640 && size_of(kSteps + 3) == 1024);
  static_assert(size_of(kClassCount - 1) == std::size_t{1} << 20);
  POLDER_CHECK(size > 0 && size <= size_of(kClassCount - 1), "bad size for the metadata pool", size);
  const std::size_t units = (size - 1) / kUnit;
  if (units < kSteps) return static_cast<unsigned>(units);
  const auto shift = static_cast<unsigned>(std::bit_width(units)) - static_cast<unsigned>(std::bit_width(kSteps / 2U));
  return kSteps + (shift - 1) * (kSteps / 2) + static_cast<unsigned>(units >> shift) - kSteps / 2;
}

void* MetadataPool::allocate(std::size_t size) {
  const unsigned index = class_of(size);
  const std::size_t rounded = size_of(index);
  void* reused;
  {
    const os::MutexLock lock(mutex_);
    if (free_[index] == nullptr) return grow_locked(rounded);
    reused = free_[index];
    free_[index] = free_[index]->next;
  }
  return std::memset(reused, 0, rounded);
}

// Fresh memory, which reads as zero. Every page is charged before it can be touched.
void* MetadataPool::grow_locked(std::size_t size) {
  if (size > size_ - static_cast<std::size_t>(next_ - base_)) return nullptr;
  char* const end = next_ + size;
  if (end > committed_) {
    const std::size_t wanted = round_up(static_cast<std::size_t>(end - committed_), kCommitStep);
    const std::size_t step = wanted < static_cast<std::size_t>(base_ + size_ - committed_)
                                 ? wanted
                                 : static_cast<std::size_t>(base_ + size_ - committed_);
    if (!os::commit(committed_, step).ok()) return nullptr;
    committed_ += step;
  }
  if (end > charged_) {
    const PageCount pages = pages_up(static_cast<std::size_t>(end - charged_));
    budget_.charge_metadata(pages);  // never refused: what it describes exists already
    charged_ += bytes(pages);
  }
  char* const memory = next_;
  next_ = end;
  return memory;
}

void MetadataPool::free(void* pointer, std::size_t size) {
  const unsigned index = class_of(size);
  POLDER_CHECK(contains(pointer) && (static_cast<char*>(pointer) - base_) % kUnit == 0,
               "freed to a metadata pool that it is not from", pointer, size);
  auto* const object = new (pointer) FreeObject;
  const os::MutexLock lock(mutex_);
  object->next = free_[index];
  free_[index] = object;
}

}  // namespace polder
