#include "heap/granule_map.h"

#include <algorithm>

#include "base/fatal.h"

namespace polder {

namespace {

// Details become accessible in steps of this many granules (512 MiB of arena, 64 KiB of table).
constexpr std::uint64_t kEnsureStep = 16384;

}  // namespace

GranuleMap::GranuleMap(const Arena& arena, const MetadataPool& pool, MetadataSpace& space)
    : arena_(arena),
      pool_base_(pool.base()),
      kind_array_(space, arena.size() >> kGranuleShift),
      detail_array_(space, arena.size() >> kGranuleShift),
      kinds_(kind_array_.data()),
      details_(detail_array_.data()),
      pointers_(arena, kinds_) {
  const Errno error = kind_array_.ensure(kind_array_.count());
  if (!error.ok()) report_arena_unavailable(arena.size(), error.code());
}

std::size_t GranuleMap::metadata_bytes(GranuleCount granules) {
  return MetadataArray<std::atomic<GranuleKind>>::bytes_for(granules.value) +
         MetadataArray<std::atomic<std::uint32_t>>::bytes_for(granules.value);
}

void GranuleMap::set_kinds(GranuleId first, GranuleCount count, GranuleKind kind) {
  for (std::uint64_t i = 0; i < count.value; ++i) kinds_[first.value + i].store(kind, std::memory_order_relaxed);
}

void GranuleMap::set_header(GranuleId first, GranuleCount count, GranuleKind kind, const void* header) {
  const auto distance = static_cast<std::size_t>(static_cast<const char*>(header) - pool_base_);
  POLDER_CHECK(distance % kHeaderUnit == 0 && distance / kHeaderUnit <= UINT32_MAX, "header outside the pool", header);
  for (std::uint64_t i = 0; i < count.value; ++i) {
    set_detail(first + GranuleCount{i}, static_cast<std::uint32_t>(distance / kHeaderUnit));
    set_kind(first + GranuleCount{i}, kind);
  }
}

bool GranuleMap::ensure(GranuleId end) {
  if (end.value <= ensured_.load(std::memory_order_acquire)) return true;
  const os::MutexLock lock(mutex_);
  if (end.value <= ensured_.load(std::memory_order_relaxed)) return true;
  const std::uint64_t wanted =
      std::min<std::uint64_t>((end.value + kEnsureStep - 1) / kEnsureStep * kEnsureStep, detail_array_.count());
  if (!detail_array_.ensure(wanted).ok()) return false;
  ensured_.store(static_cast<std::uint32_t>(wanted), std::memory_order_release);
  return true;
}

}  // namespace polder
