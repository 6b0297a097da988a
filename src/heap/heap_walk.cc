// What looks at the whole heap at once: fork, statistics, verification.
#include "base/check.h"
#include "heap/heap.h"

namespace polder {

// --- fork -------------------------------------------------------------------------------------------------------------

void Heap::lock_own() const {
  caches_mutex_.lock();
  centrals_.lock();
  quarantine_.fork_mutex().lock();
  large_.fork_mutex().lock_same_rank();
  spans_.fork_mutex().lock_same_rank();
  small_spans_.fork_mutex().lock_same_rank();
  map_.fork_mutex().lock_same_rank();
}

void Heap::unlock_own() const {
  map_.fork_mutex().unlock();
  small_spans_.fork_mutex().unlock();
  spans_.fork_mutex().unlock();
  large_.fork_mutex().unlock();
  quarantine_.fork_mutex().unlock();
  centrals_.unlock();
  caches_mutex_.unlock();
}

void Heap::lock_for_fork() { lock_own(); }

void Heap::unlock_after_fork_parent() { unlock_own(); }

void Heap::reset_after_fork_child(ThreadCache* survivor) {
  map_.fork_mutex().reset_in_child();
  small_spans_.fork_mutex().reset_in_child();
  spans_.fork_mutex().reset_in_child();
  large_.fork_mutex().reset_in_child();
  quarantine_.fork_mutex().reset_in_child();
  centrals_.reset_in_child();
  caches_mutex_.reset_in_child();
  // The others are nobody's: neither counted, nor a reason to share what there is.
  caches_ = survivor == ThreadCache::empty() ? nullptr : survivor;
  if (caches_ != nullptr) caches_->next_ = caches_->previous_ = nullptr;
  cache_count_.store(caches_ != nullptr ? 1 : 0, std::memory_order_relaxed);
  centrals_.set_shared(false);
  if (hardening_ == Hardening::on) seed();
}

// --- statistics -------------------------------------------------------------------------------------------------------

void Heap::statistics(Statistics& statistics) const {
  statistics = {};
  for (unsigned i = 0; i < kSizeClassCount; ++i) {
    const SizeClass size_class{static_cast<std::uint8_t>(i + 1)};
    const SizeClassInfo& info = info_of(size_class);
    const Central::Statistics central = centrals_.statistics(size_class);
    ClassStatistics& its = statistics.classes[i];
    its.object_size = info.size;
    its.slabs = central.slabs;
    const SlabShape shape = slab_shape(size_class, hardening_);
    its.objects = central.slabs * shape.capacity;
    its.handed_out = its.objects - central.free_objects;
    its.refills = central.refills;
    its.flushes = central.flushes;
    statistics.small_bytes += its.handed_out * info.size;
    statistics.slab_pages += PageCount{central.slabs * shape.pages};
  }
  const LargeRuns::Statistics large = large_.statistics();
  const Spans::Statistics spans = spans_.statistics();
  const Spans::Statistics small_spans = small_spans_.statistics();
  statistics.large_runs = large.runs + spans.spans + small_spans.spans;
  statistics.large_pages = large.pages + pages_up(spans.bytes + small_spans.bytes);
  const os::MutexLock lock(caches_mutex_);
  statistics.thread_caches = cache_count_.load(std::memory_order_relaxed);
}

// --- verification -----------------------------------------------------------------------------------------------------

void Heap::verify() const {
  lock_own();
  centrals_.verify_locked();
  verify_map_locked();
  std::uint64_t caches = 0;
  for (const ThreadCache* cache = caches_; cache != nullptr; cache = cache->next_) {
    POLDER_CHECK(cache->next_ == nullptr || cache->next_->previous_ == cache, "list of caches is torn", cache);
    ++caches;
  }
  const std::uint64_t count = cache_count_.load(std::memory_order_relaxed);
  POLDER_CHECK(caches == count, "count of caches is wrong", caches, count);
  unsigned idle = 0;
  for (const ThreadCache* cache = idle_caches_; cache != nullptr; cache = cache->next_) {
    POLDER_CHECK(cache->spans() == nullptr || cache->spans()->empty(), "cache waits for a thread with spans", cache);
    ++idle;
  }
  const unsigned idle_count = idle_cache_count_.load(std::memory_order_relaxed);
  POLDER_CHECK(idle == idle_count && idle <= kMostIdleCaches, "count of idle caches is wrong", idle, idle_count);
  unlock_own();
  buddy_.verify();
}

// Every granule belongs to what its kind says, and the counts agree.
void Heap::verify_map_locked() const {
  std::uint64_t slabs[kSizeClassCount + 1] = {};
  std::uint64_t free_objects[kSizeClassCount + 1] = {};
  LargeRuns::Statistics large;
  struct {
    std::uint64_t blocks = 0;
    PageCount dirty;
  } spans, small_spans;

  const std::uint32_t end = map_.ensured().value;
  for (std::uint32_t i = 0; i < end;) {
    const GranuleId granule{i};
    const GranuleKind kind = map_.kind(granule);
    if (is_slab(kind)) {
      const Slab* const slab = map_.slab(granule);
      const SizeClassInfo& info = info_of(class_of(kind));
      POLDER_CHECK(slab->first == granule, "granule map does not lead to the slab's header", i, slab);
      POLDER_CHECK(kind_of(slab->size_class) == kind, "slab's header has another class", i, slab);
      for (std::uint32_t offset = 1; offset < info.granules; ++offset) {
        POLDER_CHECK(map_.kind({i + offset}) == kind && map_.slab({i + offset}) == slab, "slab is torn", i, slab);
      }
      slab->verify(hardening_);
      ++slabs[slab->size_class.index];
      free_objects[slab->size_class.index] += slab->free;
      i += info.granules;
      continue;
    }
    if (is_span_block(kind)) {
      const SpanBlock* const block = map_.span_block(granule);
      const std::uint64_t length = (kind == kSmallSpans.kind ? kSmallSpans : kPageSpans).block().value;
      for (std::uint32_t offset = 0; offset < length; ++offset) {
        POLDER_CHECK(map_.kind({i + offset}) == kind && map_.span_block({i + offset}) == block, "span block is torn", i,
                     block);
      }
      POLDER_CHECK(block->first == granule, "granule map does not lead to the block's header", i, block);
      auto& counts = kind == kSmallSpans.kind ? small_spans : spans;
      spans_of(kind).verify_locked(*block, counts.dirty);
      ++counts.blocks;
      i += static_cast<std::uint32_t>(length);
      continue;
    }
    ++i;
    if (kind != GranuleKind::large_head && kind != GranuleKind::large_padded_head) continue;
    const PageCount pages{map_.detail(granule)};
    POLDER_CHECK(pages.value != 0, "large run without pages", granule.value);
    ++large.runs;
    large.pages += pages;
    if (kind == GranuleKind::large_padded_head) {
      for (std::uint32_t before = map_.detail({granule.value - 1}); before > 0; --before) {
        POLDER_CHECK(map_.kind({granule.value - before}) == GranuleKind::large_padding, "padding is torn",
                     granule.value);
      }
    }
    for (const std::uint64_t last = granule.value + large_.space_for(pages).value; i < last; ++i) {
      POLDER_CHECK(map_.kind({i}) == GranuleKind::large_body, "large run is torn", granule.value, i);
    }
    POLDER_CHECK(i >= end || map_.kind({i}) != GranuleKind::large_body, "large run is too long", granule.value, i);
  }

  for (unsigned index = 1; index <= kSizeClassCount; ++index) {
    const Central::Statistics central = centrals_.statistics_locked({static_cast<std::uint8_t>(index)});
    POLDER_CHECK(slabs[index] == central.slabs, "count of slabs is wrong", index, slabs[index], central.slabs);
    POLDER_CHECK(free_objects[index] == central.free_objects, "count of free objects is wrong", index,
                 free_objects[index], central.free_objects);
  }
  spans_.verify_sums_locked(spans.blocks, spans.dirty);
  small_spans_.verify_sums_locked(small_spans.blocks, small_spans.dirty);
  const LargeRuns::Statistics counted = large_.statistics_locked();
  POLDER_CHECK(large.runs == counted.runs && large.pages == counted.pages, "count of large runs is wrong", large.runs,
               counted.runs, large.pages.value, counted.pages.value);
}

}  // namespace polder
