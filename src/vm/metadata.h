// Unevictable memory for the library's own state. Two shapes, both inside the limit:
//
//   MetadataArray<T>  a flat array with one element per page, granule, folio or block of the arena, committed in slices as
//                     the arena is
//   MetadataPool      objects of up to 1 MiB (slab headers, thread caches, the paging service), never returned to the
//                     kernel
//
// Neither is ever evicted, so service threads may touch them. Memory of both reads as zero when fresh.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/errno.h"
#include "base/units.h"
#include "os/mapping.h"
#include "os/mutex.h"

namespace polder {

class Budget;

// A reserved range cut front to back among its users.
class MetadataSpace {
 public:
  MetadataSpace(char* base, std::size_t size) : next_(base), end_(base + size) {}

  // Page-aligned reserved (not committed) memory; asserts that it was sized for.
  char* take(std::size_t size);

 private:
  char* next_;
  char* end_;
};

// Elements are accessible once ensure() has covered them, and read as zero until written. Committing costs no memory,
// touching does.
template <typename T>
class MetadataArray {
 public:
  MetadataArray() = default;
  MetadataArray(MetadataSpace& space, std::size_t count)
      : data_(reinterpret_cast<T*>(space.take(bytes_for(count)))), count_(count) {}

  // Makes elements [0, count) accessible. Idempotent; callers serialise. ENOMEM under strict overcommit.
  Errno ensure(std::size_t count) {
    const std::size_t wanted = bytes_for(count);
    if (wanted <= committed_) return kOk;
    const Errno error = os::commit(reinterpret_cast<char*>(data_) + committed_, wanted - committed_);
    if (error.ok()) committed_ = wanted;
    return error;
  }

  static constexpr std::size_t bytes_for(std::size_t count) {
    return (count * sizeof(T) + kPageSize - 1) & ~(kPageSize - 1);
  }

  T& operator[](std::size_t index) const { return data_[index]; }
  T* data() const { return data_; }
  std::size_t count() const { return count_; }

 private:
  T* data_ = nullptr;          // immutable after init
  std::size_t count_ = 0;      // immutable after init
  std::size_t committed_ = 0;  // bytes; guarded by whoever calls ensure()
};

class MetadataPool {
 public:
  // `budget` is charged a page at a time as the pool grows, and never refuses; it outlives the pool.
  MetadataPool(char* base, std::size_t size, Budget& budget);

  static constexpr std::size_t kAlignment = 64;
  // Zeroed memory of at least `size` bytes (at most 1 MiB), aligned so. Null when the reservation is exhausted or
  // the kernel refuses to commit it. Thread-safe; holds only its own lock.
  void* allocate(std::size_t size);
  // What an object of that size takes.
  static std::size_t room_for(std::size_t size) { return size_of(class_of(size)); }
  // `size` as passed to allocate.
  void free(void* pointer, std::size_t size);
  bool contains(const void* pointer) const {
    return static_cast<const char*>(pointer) >= base_ && static_cast<const char*>(pointer) < base_ + size_;
  }

  // Where the reservation starts, for compact references to its objects.
  char* base() const { return base_; }

  os::Mutex& fork_mutex() POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  // 64 B … 512 B in steps of 64, then four to a doubling, up to 1 MiB.
  static constexpr unsigned kUnit = kAlignment;
  static constexpr unsigned kSteps = 8;
  static constexpr unsigned kClassCount = kSteps + 11 * kSteps / 2;
  struct FreeObject {
    FreeObject* next;
  };

  static unsigned class_of(std::size_t size);
  static constexpr std::size_t size_of(unsigned index) {
    if (index < kSteps) return std::size_t{kUnit} * (index + 1);
    const unsigned doubling = (index - kSteps) / (kSteps / 2);
    return std::size_t{kUnit} * (kSteps / 2 + 1 + (index - kSteps) % (kSteps / 2)) << (doubling + 1);
  }
  void* grow_locked(std::size_t size) POLDER_REQUIRES(mutex_);

  os::Mutex mutex_{LockRank::metadata};
  char* const base_;
  const std::size_t size_;
  Budget& budget_;
  char* next_ POLDER_GUARDED_BY(mutex_);
  char* committed_ POLDER_GUARDED_BY(mutex_);
  char* charged_ POLDER_GUARDED_BY(mutex_);
  FreeObject* free_[kClassCount] POLDER_GUARDED_BY(mutex_) = {};
};

}  // namespace polder
