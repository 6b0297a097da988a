// What every granule of the arena is used for, by the heap: the first thing that free() looks up.
//
//   kind    one byte per granule: never used, a slab's size class, part of a large run, or retired. Accessible for the
//           whole arena from the start, so any address inside the arena may be looked up.
//   detail  four bytes per granule, accessible as far as runs have been handed out. Of a slab's or a span block's granules:
//           where its header is. Of a large run's first granule: its length in pages; of the granule before a padded
//           head: how many granules of padding precede the head.
//
// Written under the lock of whoever owns the granule (a central list of its class, or large). Atomic: read without a lock by
// whoever holds a pointer into the granule, which orders the read after the write; relaxed for that reason.
// Lock: LockRank::large, only for making details accessible.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/units.h"
#include "heap/size_class.h"
#include "os/mutex.h"
#include "vm/arena.h"
#include "vm/metadata.h"

namespace polder {

enum class GranuleKind : std::uint8_t {
  never_used = 0,
  // 1 … kSizeClassCount: part of a slab of that class
  large_head = kSizeClassCount + 1,  // first granule of a large run
  large_padded_head,                 // the same, preceded by granules that only serve its alignment
  large_body,
  large_padding,
  span_block,        // part of a block that spans are cut from, in pages
  small_span_block,  // the same, in units of 512 bytes
  retired,           // was in use, went back to the buddy
};
inline constexpr unsigned kGranuleKindCount = static_cast<unsigned>(GranuleKind::retired) + 1;

constexpr GranuleKind kind_of(SizeClass size_class) { return static_cast<GranuleKind>(size_class.index); }
constexpr bool is_slab(GranuleKind kind) { return kind != GranuleKind::never_used && kind < GranuleKind::large_head; }
constexpr bool is_span_block(GranuleKind kind) {
  return kind == GranuleKind::span_block || kind == GranuleKind::small_span_block;
}
constexpr SizeClass class_of(GranuleKind kind) { return {static_cast<std::uint8_t>(kind)}; }

struct Slab;
struct SpanBlock;

// What every free() asks, together: whether a pointer is inside the arena, and what its granule is used for. A value to
// be kept where it is found without a detour; immutable, but for the kinds themselves.
class PointerKinds {
 public:
  constexpr PointerKinds() = default;  // contains nothing
  PointerKinds(const Arena& arena, const std::atomic<GranuleKind>* kinds)
      : base_(reinterpret_cast<std::uintptr_t>(arena.base())), size_(arena.size()), kinds_(kinds) {}

  std::uintptr_t base() const { return base_; }
  std::size_t size() const { return size_; }
  bool contains(const void* pointer) const { return offset(pointer) < size_; }
  // Precondition: contains the pointer.
  GranuleKind kind(const void* pointer) const {
    POLDER_DCHECK(contains(pointer), "pointer outside the arena", pointer);
    return kinds_[offset(pointer) >> kGranuleShift].load(std::memory_order_relaxed);
  }

 private:
  std::uintptr_t offset(const void* pointer) const { return reinterpret_cast<std::uintptr_t>(pointer) - base_; }

  std::uintptr_t base_ = 0;
  std::size_t size_ = 0;
  const std::atomic<GranuleKind>* kinds_ = nullptr;
};

class GranuleMap {
 public:
  // Aborts with a report when the kernel refuses the table's memory.
  GranuleMap(const Arena& arena, const MetadataPool& pool, MetadataSpace& space);

  static std::size_t metadata_bytes(GranuleCount granules);

  const Arena& arena() const { return arena_; }

  const PointerKinds& pointers() const { return pointers_; }
  // Precondition: the arena contains the pointer.
  GranuleKind kind(const void* pointer) const { return pointers_.kind(pointer); }
  GranuleKind kind(GranuleId granule) const { return kinds_[granule.value].load(std::memory_order_relaxed); }
  void set_kind(GranuleId granule, GranuleKind kind) { kinds_[granule.value].store(kind, std::memory_order_relaxed); }
  void set_kinds(GranuleId first, GranuleCount count, GranuleKind kind);

  GranuleId granule(const void* pointer) const {
    return {
        static_cast<std::uint32_t>((reinterpret_cast<std::uintptr_t>(pointer) - pointers_.base()) >> kGranuleShift)};
  }

  // Makes the details of granules before `end` accessible. False without memory.
  bool ensure(GranuleId end) POLDER_EXCLUDES(mutex_);

  std::uint32_t detail(GranuleId granule) const { return details_[granule.value].load(std::memory_order_relaxed); }
  void set_detail(GranuleId granule, std::uint32_t detail) {
    details_[granule.value].store(detail, std::memory_order_relaxed);
  }

  // The header of the slab, or the span block, that the granule belongs to; its kind says which.
  Slab* slab(GranuleId granule) const { return reinterpret_cast<Slab*>(header(granule)); }
  SpanBlock* span_block(GranuleId granule) const { return reinterpret_cast<SpanBlock*>(header(granule)); }
  void set_header(GranuleId first, GranuleCount count, GranuleKind kind, const void* header);

  GranuleId ensured() const { return {ensured_.load(std::memory_order_acquire)}; }

  os::Mutex& fork_mutex() const POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

 private:
  static constexpr std::size_t kHeaderUnit = 64;  // pool objects are aligned to it; 32 bits reach 256 GiB

  char* header(GranuleId granule) const { return pool_base_ + std::size_t{detail(granule)} * kHeaderUnit; }

  const Arena& arena_;
  char* const pool_base_;
  MetadataArray<std::atomic<GranuleKind>> kind_array_;
  mutable os::Mutex mutex_{LockRank::large};
  MetadataArray<std::atomic<std::uint32_t>> detail_array_ POLDER_GUARDED_BY(mutex_);
  std::atomic<GranuleKind>* const kinds_;
  std::atomic<std::uint32_t>* const details_;
  const PointerKinds pointers_;
  // Granules whose details are accessible. Atomic: read without the mutex; release pairs with acquire in ensure().
  std::atomic<std::uint32_t> ensured_{0};
};

}  // namespace polder
