#include "heap/quarantine.h"

#include <algorithm>
#include <utility>

namespace polder {

namespace {

constexpr std::uint32_t kFirstCapacity = 1024;
constexpr std::size_t kPart = 16;
constexpr std::size_t kFewestBytes = std::size_t{1} << 20;
constexpr std::size_t kMostBytes = std::size_t{64} << 20;

// Of which one leaves.
constexpr std::uint32_t kOldestPart = 4;

}  // namespace

std::size_t Quarantine::bound(std::size_t bytes_in_use) {
  return std::clamp(bytes_in_use / kPart, kFewestBytes, kMostBytes);
}

std::size_t Quarantine::bound_locked(std::size_t in_use) const { return bound(in_use - std::min(in_use, sealed_)); }

std::optional<Quarantine::Entry> Quarantine::add(const Entry& entry, std::size_t in_use) {
  const os::MutexLock lock(mutex_);
  if (count_ == capacity_) grow_locked();
  if (capacity_ == 0 || entry.weight() > bound_locked(in_use) / 2) return entry;
  std::optional<Entry> leaving;
  if (count_ == capacity_) leaving = take_locked();
  slot_locked(count_++) = entry;
  weight_ += entry.weight();
  sealed_ += entry.sealed();
  return leaving;
}

std::optional<Quarantine::Entry> Quarantine::take_excess(std::size_t in_use) {
  const os::MutexLock lock(mutex_);
  if (weight_ <= bound_locked(in_use)) return std::nullopt;
  return take_locked();
}

std::optional<Quarantine::Entry> Quarantine::take() {
  const os::MutexLock lock(mutex_);
  if (count_ == 0) return std::nullopt;
  return take_locked();
}

Quarantine::Entry Quarantine::take_locked() {
  std::swap(slot_locked(random_.below(std::max<std::uint32_t>(count_ / kOldestPart, 1))), slot_locked(0));
  const Entry entry = slot_locked(0);
  oldest_ = (oldest_ + 1) % capacity_;
  --count_;
  weight_ -= entry.weight();
  sealed_ -= entry.sealed();
  return entry;
}

void Quarantine::grow_locked() {
  const std::uint32_t wanted = capacity_ == 0 ? kFirstCapacity : 2 * capacity_;
  if (wanted > kMostEntries) return;
  auto* const ring = static_cast<Entry*>(pool_.allocate(wanted * sizeof(Entry)));
  if (ring == nullptr) return;
  for (std::uint32_t age = 0; age < count_; ++age) ring[age] = slot_locked(age);
  if (ring_ != nullptr) pool_.free(ring_, capacity_ * sizeof(Entry));
  ring_ = ring;
  capacity_ = wanted;
  oldest_ = 0;
}

Quarantine::Statistics Quarantine::statistics() const {
  const os::MutexLock lock(mutex_);
  return {count_, weight_};
}

}  // namespace polder
