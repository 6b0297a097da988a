#include "heap/centrals.h"

#include <algorithm>

#include "base/fatal.h"

namespace polder {

Centrals::Centrals(GranuleMap& map, MetadataPool& pool, Hardening hardening, const Processors& processors)
    : map_(map), pool_(pool), hardening_(hardening), processors_(processors) {
  add(first_);
}

void Centrals::add(void* storage) {
  const unsigned shard = count_.load(std::memory_order_relaxed);
  shards_[shard] = new (storage) Shard;
  for (unsigned index = 1; index <= kSizeClassCount; ++index) {
    const SizeClass size_class{static_cast<std::uint8_t>(index)};
    list(shard, size_class).initialise(map_, size_class, hardening_, static_cast<std::uint8_t>(shard));
  }
  count_.store(shard + 1, std::memory_order_release);
}

void Centrals::set_shared(bool shared) {
  if (hardening_ == Hardening::on) return;
  if (shared) {
    // The process's processors, asked for once, and what a thread has been pinned to since.
    if (known_processors_ == 0) known_processors_ = processors_.limit();
    known_processors_ = std::max(known_processors_, processors_.current() + 1);
    while (count_.load(std::memory_order_relaxed) < std::min(known_processors_, kMost)) {
      void* const storage = pool_.allocate(sizeof(Shard));
      if (storage == nullptr) break;
      add(storage);
    }
  }
  spread_.store(shared ? count_.load(std::memory_order_relaxed) : 1, std::memory_order_release);
}

unsigned Centrals::take(SizeClass size_class, void** objects, unsigned wanted, Random* random) {
  const unsigned shard = own();
  Central& its = list(shard, size_class);
  if (const unsigned taken = its.take(objects, wanted, random); taken != 0) return taken;
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned distance = 1; distance < count; ++distance) {
    Central& other = list((shard + distance) % count, size_class);
    if (!other.has_free() || !its.take_over(other)) continue;
    if (const unsigned taken = its.take(objects, wanted, random); taken != 0) return taken;
  }
  return 0;
}

unsigned Centrals::adopt(Slab* slab, void** objects, unsigned wanted, Random* random) {
  return list(own(), slab->size_class).adopt(slab, objects, wanted, random);
}

unsigned Centrals::shard_of(SizeClass size_class, const void* object) const {
  const GranuleId granule = map_.granule(object);
  if (map_.kind(granule) != kind_of(size_class)) report_double_free(object);
  const unsigned shard = map_.slab(granule)->shard.load(std::memory_order_relaxed);
  // No slab's any more: freed by another thread just now.
  if (shard >= count_.load(std::memory_order_acquire)) report_double_free(object);
  return shard;
}

Slab* Centrals::give(SizeClass size_class, void* const* objects, unsigned count, Central::Spare spare) {
  Slab* released = nullptr;
  while (count > 0) {
    const unsigned given = list(shard_of(size_class, *objects), size_class).give(objects, count, spare, &released);
    objects += given;
    count -= given;  // perhaps by nothing: the slab was taken over meanwhile
  }
  return released;
}

Slab* Centrals::give_up_empty() {
  Slab* released = nullptr;
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned shard = 0; shard < count; ++shard) {
    for (Central& central : *shards_[shard]) central.give_up_empty(&released);
  }
  return released;
}

// --- all at once ------------------------------------------------------------------------------------------------------

// All of a class's lists at once: a slab that is taken over meanwhile counts once.
Central::Statistics Centrals::statistics(SizeClass size_class) const {
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned shard = 0; shard < count; ++shard) list(shard, size_class).fork_mutex().lock_same_rank();
  Central::Statistics sum;
  for (unsigned shard = 0; shard < count; ++shard) sum += list(shard, size_class).statistics_locked();
  for (unsigned shard = count; shard > 0; --shard) list(shard - 1, size_class).fork_mutex().unlock();
  return sum;
}

Central::Statistics Centrals::statistics_locked(SizeClass size_class) const {
  Central::Statistics sum;
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned shard = 0; shard < count; ++shard) sum += list(shard, size_class).statistics_locked();
  return sum;
}

void Centrals::lock() const {
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned shard = 0; shard < count; ++shard) {
    for (const Central& central : *shards_[shard]) central.fork_mutex().lock_same_rank();
  }
}

void Centrals::unlock() const {
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned shard = count; shard > 0; --shard) {
    for (unsigned i = kSizeClassCount; i > 0; --i) (*shards_[shard - 1])[i - 1].fork_mutex().unlock();
  }
}

void Centrals::reset_in_child() {
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned shard = count; shard > 0; --shard) {
    for (unsigned i = kSizeClassCount; i > 0; --i) (*shards_[shard - 1])[i - 1].fork_mutex().reset_in_child();
  }
}

void Centrals::verify_locked() const {
  const unsigned count = count_.load(std::memory_order_acquire);
  for (unsigned shard = 0; shard < count; ++shard) {
    for (const Central& central : *shards_[shard]) central.verify_locked();
  }
}

}  // namespace polder
