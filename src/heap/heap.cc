#include "heap/heap.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/fatal.h"
#include "os/mapping.h"

namespace polder {

namespace {

// What the magazines of all threads together may have of what there is of a class, where that is more than each may have
// anyway. (Measured: 1/64 for each of eight threads, 1.035 of the peak and 0.87 of the time.)
constexpr std::uint64_t kMagazinePart = 64;

// What the threads together may keep of spans, as a part of what is in use and of what purging that takes too long leaves,
// and each at least and at most; and what each of them may keep if it is only one.
constexpr std::uint64_t kKeptSpansPart = 256;
constexpr std::uint64_t kKeptSlackPart = 2;
constexpr std::uint64_t kOneKeptPart = 8;
constexpr PageCount kFewestKept{(std::size_t{64} << 10) / kPageSize};
constexpr PageCount kMostKept{(std::size_t{1} << 20) / kPageSize};

// A thread's cache that has room for no more bytes of objects is left to the next one as it is. (Measured: a thread that
// allocates once, from start to end, 5,709 instructions without and 3,775 with it; 1.018 and 1.009 of glibc's time.)
constexpr std::size_t kMostHandedOver = 8 << 10;

// A huge page that is not full yet is at most 1/64 of the heap then. (Measured: replace_1m, 280 MB, 0.83 of the time and 1.01
// of the memory with huge pages; replace_threads, 78 MB, 0.98 and 1.04; replace_100k, 32 MB, 0.80 and 1.12.)
constexpr GranuleCount kDenseFrom{(std::size_t{128} << 20) / kGranuleSize};

// Of what is larger than small.
constexpr std::size_t kAnyAlignment = 16;

// Half a magazine: two refills in a row must leave it room for what they brought, or a program that allocates and frees
// as much in turn refills and flushes each time. Of three, two: one at a time is no batch (calloc 1.07 of the time).
constexpr unsigned refill_of(unsigned capacity) { return capacity <= 3 ? (capacity + 1) / 2 : capacity / 2; }

}  // namespace

Heap::Heap(const Arena& arena, Buddy& buddy, Backing& backing, MetadataPool& pool, MetadataSpace& space,
           Hardening hardening, RunSource::Clock clock, const Processors& processors)
    : map_(arena, pool, space),
      hardening_(hardening),
      pool_(pool),
      backing_(backing),
      buddy_(buddy),
      runs_(buddy, backing, map_, {&spans_, &small_spans_}, clock),
      spans_(kPageSpans, map_, runs_, pool, backing, hardening),
      small_spans_(kSmallSpans, map_, runs_, pool, backing, Hardening::off),
      large_(map_, runs_, backing, hardening),
      quarantine_(pool),
      centrals_(map_, pool, hardening, processors) {
  POLDER_CHECK(reinterpret_cast<std::uintptr_t>(arena.base()) % kBlockSize == 0, "arena is not block aligned",
               arena.base());
  if (hardening == Hardening::on) seed();
}

// What spans of that size are cut into, or of a page where no span will do.
const SpanUnit& Heap::span_unit_for(std::size_t size, std::size_t alignment) const {
  const bool small = size <= kSmallSpans.largest_span && alignment < kPageSize && hardening_ == Hardening::off;
  return small ? kSmallSpans : kPageSpans;
}

// --- allocate ---------------------------------------------------------------------------------------------------------

void* Heap::allocate_slow(ThreadCache* cache, std::size_t size) {
  if (size <= kLargestSmall) return allocate_small_slow(cache, size_class_for(size));
  return allocate_large(cache, size, kAnyAlignment, RunContents::any);
}

void* Heap::allocate_large(ThreadCache* cache, std::size_t size, std::size_t alignment, RunContents contents,
                           Buddy::Fit fit) {
  // Pages may have been evicted since they were kept: what they hold may be in swap by now, or lost.
  if (cache->spans() != nullptr && backing_.may_evict()) free_kept_spans(*cache);
  const SpanUnit& unit = span_unit_for(size, alignment);
  if (size <= unit.largest_span && cache->spans() != nullptr) {
    if (void* const span = cache->spans()->take(unit.round_up(size), alignment); span != nullptr) {
      spans_of(map_.kind(span)).reuse(span);
      if (contents == RunContents::zero) std::memset(span, 0, size);
      return span;
    }
  }
  const auto attempt = [&] {
    if (size <= unit.largest_span && alignment <= Spans::kLargestAlignment)
      return spans_of(unit.kind).allocate(size, alignment, contents);
    return large_.allocate(size, std::max(alignment, LargeRuns::kAlignment), contents, fit);
  };
  void* memory = attempt();
  if (memory == nullptr && size <= map_.arena().size() && give_up_idle(cache)) memory = attempt();
  if (memory == nullptr) return nullptr;
  const Run run{map_.arena().page_of(memory), pages_up(size)};
  if (contents == RunContents::any && hardening_ == Hardening::off) runs_.fill_from_dirty(run);
  runs_.note_tides(granules_up(run.pages));
  return memory;
}

void* Heap::allocate_small_slow(ThreadCache* cache, SizeClass size_class) {
  if (cache != ThreadCache::empty()) {
    // What the thread only freed so far goes back after the refill, so that it does not come again.
    ThreadCache::Outgoing outgoing;
    const unsigned freed = cache->end_outgoing(size_class, outgoing);
    cache->grow_empty(pool_, size_class, largest_magazine(size_class));
    const unsigned capacity = cache->capacity(size_class);
    if (capacity != 0) {
      cache->claim(size_class);
      const unsigned refilled = take(cache, size_class, cache->room(size_class), refill_of(capacity));
      cache->push(size_class, refilled);
      if (freed != 0) give(size_class, outgoing.data(), freed);
      void* const object = cache->try_allocate(size_class);
      if (cache->note_use(size_class, refilled)) sweep(*cache);
      return object;
    }
  }
  void* object = nullptr;
  return take(cache, size_class, &object, 1) == 1 ? object : nullptr;
}

void* Heap::allocate_aligned(ThreadCache* cache, std::size_t size, std::size_t alignment) {
  POLDER_DCHECK(alignment != 0 && (alignment & (alignment - 1)) == 0, "alignment is no power of two", alignment);
  const SizeClass size_class = size_class_for_aligned(size, alignment);
  if (size_class.index != 0) return allocate_small(cache, size_class);
  return allocate_large(cache, std::max<std::size_t>(size, 1), alignment, RunContents::any);
}

void* Heap::allocate_zeroed(ThreadCache* cache, std::size_t size) {
  if (size > kLargestSmall) return allocate_large(cache, size, kAnyAlignment, RunContents::zero);
  void* const object = allocate_small(cache, size_class_for(size));
  if (object != nullptr) std::memset(object, 0, size);
  return object;
}

unsigned Heap::take(ThreadCache* cache, SizeClass size_class, void** objects, unsigned wanted) {
  Random* const random = random_of(size_class);
  if (const unsigned taken = centrals_.take(size_class, objects, wanted, random); taken != 0) return taken;
  Slab* slab = create_slab(size_class);
  if (slab == nullptr && give_up_idle(cache)) slab = create_slab(size_class);
  // Another thread may have freed some meanwhile.
  if (slab == nullptr) return centrals_.take(size_class, objects, wanted, random);
  return centrals_.adopt(slab, objects, wanted, random);
}

Slab* Heap::create_slab(SizeClass size_class) {
  const SizeClassInfo& info = info_of(size_class);
  const std::optional<Buddy::Taken> taken = runs_.take_space({info.granules}, {info.granules});
  if (!taken) return nullptr;
  runs_.note_tides({info.granules});
  const std::size_t header_bytes = Slab::header_bytes(size_class, hardening_);
  void* const header = pool_.allocate(header_bytes);
  const Run pages{first_page(taken->first), {slab_shape(size_class, hardening_).pages}};
  if (header == nullptr || !backing_.provide(pages, slab_occupancy())) {
    if (header != nullptr) pool_.free(header, header_bytes);
    runs_.return_space(*taken, {info.granules});
    return nullptr;
  }
  auto* const slab = static_cast<Slab*>(header);
  slab->initialise(size_class, taken->first, hardening_);
  if (hardening_ == Hardening::on) static_cast<void>(backing_.guard(slab_guard(size_class, taken->first)));
  return slab;
}

// Slabs fill up, and lie side by side. Where page tables are shadowed, huge pages shorten no walk, and to find them takes
// time (measured: replace_1m 1.4 times as long with them).
Occupancy Heap::slab_occupancy() const {
  const bool dense = hardening_ == Hardening::off && runs_.used() >= kDenseFrom && !os::page_tables_are_shadowed();
  return dense ? Occupancy::dense : Occupancy::sparse;
}

// --- free -------------------------------------------------------------------------------------------------------------

void Heap::free_slow(ThreadCache* cache, void* pointer) {
  if (hardening_ == Hardening::on) return free_hardened(pointer);
  if (const GranuleKind kind = map_.kind(pointer); is_span_block(kind)) return free_span(cache, pointer, kind);
  const GranuleKind kind = require_start("free", pointer);
  if (!is_slab(kind)) return large_.free(pointer);
  const SizeClass size_class = class_of(kind);
  if (cache == ThreadCache::empty()) return give(size_class, &pointer, 1);
  if (cache->is_freed_twice(kind, pointer)) report_double_free(pointer);

  if (cache->put_outgoing(pool_, size_class, pointer)) return;
  ThreadCache::Outgoing outgoing;
  if (const unsigned freed = cache->end_outgoing(size_class, outgoing); freed != 0) {
    give(size_class, outgoing.data(), freed);
  }
  if (cache->is_handed_over(size_class) && !cache->claim_used(size_class)) {
    // What is in it, or was in the outgoing buffer, is of threads before this one.
    flush(*cache, size_class);
    cache->remove_empty(pool_, size_class);
    if (cache->put_outgoing(pool_, size_class, pointer)) return;
  }
  unsigned flushed = 0;
  if (cache->count(size_class) == cache->capacity(size_class)) {
    cache->grow(pool_, size_class, largest_magazine(size_class));
    const unsigned capacity = cache->capacity(size_class);
    if (capacity == 0) return give(size_class, &pointer, 1);
    if (cache->count(size_class) == capacity) {
      cache->note_full(size_class);
      flushed = (capacity + 1) / 2;
      give(size_class, cache->oldest(size_class), flushed);
      cache->drop_oldest(size_class, flushed);
    }
  }
  const bool freed = cache->try_free(kind, pointer);
  POLDER_CHECK(freed, "magazine with room refuses an object", pointer);
  if (cache->note_use(size_class, flushed)) sweep(*cache);
}

void Heap::free_span(ThreadCache* cache, void* pointer, GranuleKind kind) {
  Spans& spans = spans_of(kind);
  // Where pages are evicted, what nobody needs must not be paid for, nor go to swap and come back.
  const bool keeps = cache != ThreadCache::empty() && !backing_.may_evict();
  SpanCache* const kept = keeps ? cache->create_spans(pool_) : nullptr;
  if (kept == nullptr) return spans.free(pointer);
  const std::uint64_t threads = std::max<std::uint64_t>(1, cache_count_.load(std::memory_order_relaxed));
  const PageCount used = polder::pages(runs_.used());
  const std::uint64_t all = used.value / kKeptSpansPart + polder::pages(runs_.slack()).value / kKeptSlackPart;
  const PageCount share = std::clamp(PageCount{all / threads}, kFewestKept, kMostKept);
  const PageCount most = std::max(share, PageCount{used.value / kOneKeptPart / threads});
  const std::size_t size = spans.keep(pointer, bytes(most));
  if (size == 0) return spans.free(pointer);
  while (!kept->empty() && kept->is_full_for(size, bytes(share))) free_kept(kept->take_oldest());
  kept->put(pointer, size);
  if (cache->note_use(PageCount{0})) sweep(*cache);
}

void Heap::give(SizeClass size_class, void* const* objects, unsigned count) {
  const auto spare = backing_.under_pressure() ? Central::Spare::none : Central::Spare::cheap;
  Slab* const empty = centrals_.give(size_class, objects, count, spare);
  if (empty != nullptr) {
    release_slabs(empty);
  } else {
    runs_.settle();  // also where only objects come and go
  }
}

GranuleCount Heap::release_slabs(Slab* slabs) {
  GranuleCount released;
  while (slabs != nullptr) {
    Slab* const next = slabs->next;
    const SizeClass size_class = slabs->size_class;
    const SizeClassInfo& info = info_of(size_class);
    const GranuleId first = slabs->first;
    pool_.free(slabs, Slab::header_bytes(size_class, hardening_));
    if (hardening_ == Hardening::on) static_cast<void>(backing_.unguard(slab_guard(size_class, first)));
    runs_.release({first_page(first), {slab_shape(size_class, hardening_).pages}}, first, {info.granules});
    released += GranuleCount{info.granules};
    slabs = next;
  }
  return released;
}

GranuleKind Heap::require_start(const char* operation, const void* pointer) const {
  const GranuleKind kind = map_.kind(pointer);
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  if (is_slab(kind)) {
    const SizeClassInfo& info = info_of(class_of(kind));
    if (!is_object_start(info, address & (info.granules * kGranuleSize - 1)))
      report_interior_pointer(operation, pointer);
    return kind;
  }
  switch (kind) {
    case GranuleKind::never_used:
      report_foreign_pointer(operation, pointer);
    case GranuleKind::retired:
      report_double_free(pointer);
    case GranuleKind::span_block:
    case GranuleKind::small_span_block:
      return kind;  // they know more than the map
    case GranuleKind::large_head:
    case GranuleKind::large_padded_head:
      if (address % kGranuleSize == 0) return kind;
      report_interior_pointer(operation, pointer);
    default:
      report_interior_pointer(operation, pointer);
  }
}

// --- reallocate -------------------------------------------------------------------------------------------------------

std::size_t Heap::usable_size(const char* operation, GranuleKind kind, const void* pointer) const {
  if (is_slab(kind)) return info_of(class_of(kind)).size;
  return is_span_block(kind) ? spans_of(kind).usable_size(operation, pointer) : large_.usable_size(pointer);
}

std::size_t Heap::usable_size(const void* pointer) const {
  static constexpr const char* kOperation = "malloc_usable_size";
  const GranuleKind kind = require_start(kOperation, pointer);
  if (hardening_ == Hardening::on && is_slab(kind)) centrals_.only(class_of(kind)).require_in_use(kOperation, pointer);
  return usable_size(kOperation, kind, pointer);
}

// A span that becomes a large run; null when it is to be copied. To copy into dirty pages is as fast as to move and leaves
// nothing to fault in later, but it would fill what the program has left untouched.
void* Heap::move_span(void* pointer, std::size_t usable, std::size_t size) {
  if (size <= kPageSpans.largest_span || usable <= kSmallSpans.largest_span) return nullptr;
  const Run span{map_.arena().page_of(pointer), pages_up(usable)};
  if (runs_.dirty() >= span.pages && !os::mostly_untouched(pointer, usable)) return nullptr;
  const LargeRuns::Moved moved = large_.move(span, size);
  if (moved.memory == nullptr) return nullptr;
  if (hardening_ == Hardening::on) {
    put_into_quarantine(spans_.begin_quarantine(pointer));
  } else {
    spans_.free(pointer, moved.pages == span.pages ? Buddy::Contents::clean : Buddy::Contents::dirty);
  }
  return moved.memory;
}

// What is no object of a slab, and shall not become one, without copying it; null when that cannot be done.
void* Heap::resize_large(GranuleKind kind, void* pointer, std::size_t usable, std::size_t size) {
  if (is_span_block(kind)) return spans_of(kind).resize(pointer, size) ? pointer : move_span(pointer, usable, size);
  if (large_.resize(pointer, size)) return pointer;
  Quarantine::Entry left{};
  void* const moved = large_.move(pointer, size, &left);
  if (moved != nullptr && hardening_ == Hardening::on) put_into_quarantine(left);
  return moved;
}

void* Heap::reallocate(ThreadCache* cache, void* pointer, std::size_t size) {
  static constexpr const char* kOperation = "realloc";
  const GranuleKind kind = require_start(kOperation, pointer);
  const bool small = is_slab(kind);
  if (hardening_ == Hardening::on && small) centrals_.only(class_of(kind)).require_in_use(kOperation, pointer);
  const std::size_t usable = usable_size(kOperation, kind, pointer);
  // Objects move to a smaller place only when at least half is to be gained.
  if (size <= usable && size > usable / 2 && (small || size <= kLargestSmall)) return pointer;
  if (!small && size > kLargestSmall) {
    if (void* const same = resize_large(kind, pointer, usable, size); same != nullptr) return same;
  }

  void* const moved = size > usable && size > kLargestSmall
                          ? allocate_large(cache, size, kAnyAlignment, RunContents::any, Buddy::Fit::roomy)
                          : allocate(cache, size);
  if (moved == nullptr) return size <= usable ? pointer : nullptr;
  std::memcpy(moved, pointer, std::min(size, usable));
  free(cache, pointer);
  return moved;
}

// --- caches -----------------------------------------------------------------------------------------------------------

ThreadCache* Heap::create_cache() {
  if (ThreadCache* const cache = take_over_cache(); cache != nullptr) return cache;
  ThreadCache* const cache = ThreadCache::create(pool_);
  if (cache == nullptr) return nullptr;
  const os::MutexLock lock(caches_mutex_);
  enlist_locked(*cache);
  return cache;
}

void Heap::destroy_cache(ThreadCache* cache) {
  POLDER_CHECK(cache != ThreadCache::empty(), "the empty cache is not destroyed", cache);
  free_kept_spans(*cache);
  const bool little = cache->bytes_of_room() <= kMostHandedOver && !backing_.under_pressure();
  {
    const os::MutexLock lock(caches_mutex_);
    delist_locked(*cache);
    if (little && hand_over_locked(*cache)) return;
  }
  flush_all(*cache);
  cache->destroy(pool_);
}

void Heap::enlist_locked(ThreadCache& cache) {
  cache.previous_ = nullptr;
  cache.next_ = caches_;
  if (caches_ != nullptr) caches_->previous_ = &cache;
  caches_ = &cache;
  centrals_.set_shared(cache_count_.fetch_add(1, std::memory_order_relaxed) + 1 > 1);
}

void Heap::delist_locked(ThreadCache& cache) {
  if (cache.previous_ != nullptr) {
    cache.previous_->next_ = cache.next_;
  } else {
    POLDER_CHECK(caches_ == &cache, "thread cache is not on the list", &cache);
    caches_ = cache.next_;
  }
  if (cache.next_ != nullptr) cache.next_->previous_ = cache.previous_;
  centrals_.set_shared(cache_count_.fetch_sub(1, std::memory_order_relaxed) - 1 > 1);
}

ThreadCache* Heap::take_over_cache() {
  const os::MutexLock lock(caches_mutex_);
  ThreadCache* const cache = idle_caches_;
  if (cache == nullptr) return nullptr;
  idle_caches_ = cache->next_;
  idle_cache_count_.fetch_sub(1, std::memory_order_relaxed);
  idle_caches_used_ = true;
  enlist_locked(*cache);
  return cache;
}

bool Heap::hand_over_locked(ThreadCache& cache) {
  idle_caches_used_ = true;
  if (idle_cache_count_.load(std::memory_order_relaxed) == kMostIdleCaches) return false;
  idle_cache_count_.fetch_add(1, std::memory_order_relaxed);
  cache.hand_over();
  cache.next_ = idle_caches_;
  idle_caches_ = &cache;
  return true;
}

bool Heap::end_idle_caches(Idle which) {
  ThreadCache* caches = nullptr;
  {
    const os::MutexLock lock(caches_mutex_);
    const bool used = std::exchange(idle_caches_used_, false);
    if (used && which == Idle::unless_used) return false;
    caches = std::exchange(idle_caches_, nullptr);
    idle_cache_count_.store(0, std::memory_order_relaxed);
  }
  const bool any = caches != nullptr;
  while (caches != nullptr) {
    ThreadCache* const next = caches->next_;
    flush_all(*caches);
    caches->destroy(pool_);
    caches = next;
  }
  return any;
}

// A few objects in an idle magazine may keep as many slabs.
void Heap::sweep(ThreadCache& cache) {
  if (SpanCache* const kept = cache.spans(); kept != nullptr) {
    while (void* const span = kept->take_idle()) free_kept(span);
    kept->note_sweep();
  }
  for (std::uint64_t idle = cache.idle_classes(); idle != 0; idle &= idle - 1) {
    const SizeClass size_class{static_cast<std::uint8_t>(std::countr_zero(idle) + 1)};
    flush(cache, size_class);
    cache.shrink_empty(pool_, size_class);
  }
  if (backing_.under_pressure()) end_large_magazines(cache);
  if (idle_cache_count_.load(std::memory_order_relaxed) != 0) end_idle_caches(Idle::unless_used);
}

// They grew before there was pressure.
void Heap::end_large_magazines(ThreadCache& cache) {
  for (std::uint64_t present = cache.present(); present != 0; present &= present - 1) {
    const SizeClass size_class{static_cast<std::uint8_t>(std::countr_zero(present) + 1)};
    const unsigned most = info_of(size_class).magazine;
    if (cache.capacity(size_class) <= most || cache.is_stretched(size_class)) continue;
    flush(cache, size_class);
    cache.limit_empty(pool_, size_class, most);
  }
}

// Whether there were any.
bool Heap::free_kept_spans(ThreadCache& cache) {
  SpanCache* const kept = cache.spans();
  if (kept == nullptr || kept->empty()) return false;
  while (!kept->empty()) free_kept(kept->take_oldest());
  return true;
}

void Heap::flush_all(ThreadCache& cache) {
  free_kept_spans(cache);
  for (std::uint64_t present = cache.present(); present != 0; present &= present - 1) {
    const SizeClass size_class{static_cast<std::uint8_t>(std::countr_zero(present) + 1)};
    ThreadCache::Outgoing outgoing;
    if (const unsigned freed = cache.end_outgoing(size_class, outgoing); freed != 0) {
      give(size_class, outgoing.data(), freed);
    } else {
      flush(cache, size_class);
    }
  }
}

void Heap::flush(ThreadCache& cache, SizeClass size_class) {
  const unsigned count = cache.count(size_class);
  if (count == 0) return;
  give(size_class, cache.oldest(size_class), count);
  cache.drop_oldest(size_class, count);
}

unsigned Heap::largest_magazine(SizeClass size_class) const {
  if (hardening_ == Hardening::on) return 0;
  const SizeClassInfo& info = info_of(size_class);
  if (backing_.under_pressure()) return info.magazine;
  const std::uint64_t objects = centrals_.estimated_slabs(size_class) * info.capacity;
  const std::uint64_t threads = std::max<std::uint64_t>(1, cache_count_.load(std::memory_order_relaxed));
  return std::clamp(static_cast<std::uint32_t>(objects / kMagazinePart / threads), info.magazine, info.large_magazine);
}

bool Heap::give_up_idle(ThreadCache* cache) {
  const bool kept = free_kept_spans(*cache);
  const bool idle = end_idle_caches(Idle::all);
  const bool waited = empty_quarantine();
  return give_up_idle_granules().value != 0 || waited || kept || idle;
}

GranuleCount Heap::give_up_idle_granules() {
  GranuleCount given = release_slabs(centrals_.give_up_empty());
  given += runs_.purge_all();
  return given;
}

GranuleCount Heap::trim(ThreadCache* cache) {
  if (cache != ThreadCache::empty()) flush_all(*cache);
  end_idle_caches(Idle::all);
  empty_quarantine();
  return give_up_idle_granules();
}

}  // namespace polder
