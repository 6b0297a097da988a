// What a hardened heap does in place of what heap.cc does.
#include <cerrno>
#include <cstring>
#include <new>

#include "base/check.h"
#include "base/fatal.h"
#include "heap/heap.h"

namespace polder {

void Heap::seed() {
  const auto random = [] {
    Random::Seed bytes;
    os::random_bytes(bytes.data(), sizeof bytes);
    return bytes;
  };
  if (randoms_ == nullptr) {
    void* const memory = pool_.allocate(sizeof *randoms_);
    if (memory == nullptr) report_arena_unavailable(sizeof *randoms_, ENOMEM);
    randoms_ = new (memory) std::array<Random, kSizeClassCount>;
  }
  for (Random& its : *randoms_) its.seed(random());
  quarantine_.seed(random());
}

Run Heap::slab_guard(SizeClass size_class, GranuleId first) const {
  const PageId end = first_page(first + GranuleCount{info_of(size_class).granules});
  return {end - PageCount{1}, {1}};
}

void Heap::free_hardened(void* pointer) {
  const GranuleKind kind = require_start("free", pointer);
  if (is_slab(kind)) {
    const std::uint32_t size = info_of(class_of(kind)).size;
    centrals_.only(class_of(kind)).begin_quarantine(pointer);
    clear(pointer, size);
    put_into_quarantine({pointer, size, Quarantine::Entry::kObject});
  } else if (kind == GranuleKind::span_block) {
    put_into_quarantine(spans_.begin_quarantine(pointer));
  } else {
    put_into_quarantine(large_.begin_quarantine(pointer));
  }
}

// Of whole pages only those are touched that are in memory.
void Heap::clear(void* object, std::size_t size) {
  char* const begin = static_cast<char*>(object);
  char* const end = begin + size;
  const PageId first = map_.arena().page_of(begin + kPageSize - 1);
  const PageId last = map_.arena().page_of(end);
  if (first >= last) {
    std::memset(begin, 0, size);
    return;
  }
  char* const first_whole = map_.arena().address(first);
  char* const last_whole = map_.arena().address(last);
  std::memset(begin, 0, static_cast<std::size_t>(first_whole - begin));
  backing_.zero({first, last - first});
  std::memset(last_whole, 0, static_cast<std::size_t>(end - last_whole));
}

void Heap::put_into_quarantine(const Quarantine::Entry& entry) {
  const std::size_t in_use = bytes(runs_.used());
  if (const auto displaced = quarantine_.add(entry, in_use)) end_quarantine(*displaced);
  while (const auto leaving = quarantine_.take_excess(in_use)) end_quarantine(*leaving);
}

void Heap::end_quarantine(const Quarantine::Entry& entry) {
  if (entry.is_object()) {
    require_untouched(entry.object, entry.amount);
    give(class_of(map_.kind(entry.object)), &entry.object, 1);
  } else if (map_.kind(entry.object) == GranuleKind::span_block) {
    spans_.end_quarantine(entry);
  } else {
    large_.end_quarantine(entry);
  }
}

bool Heap::empty_quarantine() {
  bool waited = false;
  while (const auto leaving = quarantine_.take()) {
    end_quarantine(*leaving);
    waited = true;
  }
  return waited;
}

}  // namespace polder
