#include "manager/manager.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/fatal.h"
#include "os/mapping.h"
#include "os/thread.h"

namespace polder {
namespace {

// Kept out of what may be charged: stacks of the service threads, rings, the library's own data, and state that is
// charged after the fact.
constexpr std::size_t kOverhead = std::size_t{256} << 10;

PageCount budget_for(std::size_t limit_bytes) {
  if (limit_bytes == 0) return Budget::kUnlimited;
  return pages_down(limit_bytes - std::min(limit_bytes, kOverhead));
}

GranuleCount granules_of(std::size_t arena_size) { return {arena_size / kGranuleSize}; }

// The pool holds slab headers, thread caches and the pager's buffers: 1/64 of the arena's address space is more than
// all of them can need.
std::size_t pool_bytes(std::size_t arena_size) { return std::max(arena_size / 64, std::size_t{64} << 20); }

std::size_t array_bytes(std::size_t arena_size) {
  const GranuleCount granules = granules_of(arena_size);
  return Pager::metadata_bytes(pages(granules)) + Heap::metadata_bytes(granules) + Buddy::metadata_bytes(granules);
}

// What describes one chunk of the arena once it is in use.
PageCount metadata_per_chunk() {
  const GranuleCount granules = granules_of(Arena::kChunkSize);
  return pages_up(Pager::metadata_bytes_per_chunk() + Heap::metadata_bytes(granules) +
                  Buddy::metadata_bytes_in_use(granules));
}

MetadataSpace reserve(Arena& arena, const ManagerOptions& options, Arena::Layout (*layout_for)(std::size_t)) {
  POLDER_CHECK(os::page_size() == kPageSize, "pages are 4 KiB", os::page_size());
  const Errno error = arena.reserve(options.arena_bytes, options.smallest_arena_bytes, layout_for);
  if (!error.ok()) report_arena_unavailable(options.smallest_arena_bytes, error.code());
  return MetadataSpace(arena.metadata(), array_bytes(arena.size()));
}

}  // namespace

Arena::Layout Manager::layout_for(std::size_t arena_size) {
  return {.metadata = array_bytes(arena_size) + pool_bytes(arena_size), .staging = Staging::kAreaBytes};
}

Manager::Manager(const ManagerOptions& options)
    : statistics_(options.statistics != nullptr ? options.statistics : &private_statistics_),
      limit_bytes_(options.memory_limit_bytes),
      budget_(budget_for(options.memory_limit_bytes), options.watermark_scale),
      space_(reserve(arena_, options, layout_for)),
      pool_(arena_.metadata() + array_bytes(arena_.size()), pool_bytes(arena_.size()), budget_),
      buddy_(space_, granules_of(arena_.size())),
      pager_(PagerOptions{.swap_directory = options.swap_directory,
                          .swap_bytes = options.swap_bytes,
                          .io = options.io,
                          .policy = options.policy,
                          .hooks = {.enter_unevictable = options.enter_unevictable,
                                    .leave_unevictable = options.leave_unevictable},
                          .attend = options.attend},
             arena_, space_, pool_, budget_, metadata_per_chunk(), *statistics_),
      heap_(arena_, buddy_, pager_.backing(), pool_, space_, options.hardening) {
  pager_.set_heap({.free_pages = &heap_.free_pages(), .objects = &heap_.objects()});
  // A huge page would make resident what was neither handed out nor charged.
  if (budget_.limited()) os::advise_huge_pages(arena_.base(), arena_.size(), os::HugePages::never);
  publish_layout();
}

void Manager::publish_layout() {
  const auto put = [](Counter& counter, std::uint64_t value) { counter.store(value, std::memory_order_relaxed); };
  StatisticsSegment::Setup& setup = statistics_->setup;
  put(setup.limit_bytes, memory_limit());
  put(setup.metadata_base, reinterpret_cast<std::uintptr_t>(arena_.metadata()));
  put(setup.metadata_size, arena_.metadata_size());
  put(setup.staging_base, reinterpret_cast<std::uintptr_t>(arena_.staging()));
  put(setup.staging_size, arena_.staging_size());
  put(setup.arena_base, reinterpret_cast<std::uintptr_t>(arena_.base()));
  put(setup.arena_size, arena_.size());
}

const StatisticsSegment& Manager::statistics() {
  pager_.publish_gauges();
  return *statistics_;
}

Errno Manager::set_memory_limit(std::size_t bytes) {
  const Errno refusal = change_memory_limit(bytes);
  return refusal.ok() ? pager_.shrink_to_limit() : refusal;
}

Errno Manager::change_memory_limit(std::size_t bytes) {
  const PageCount limit = budget_for(bytes);
  if (budget_.metadata() + budget_.watermarks_at(limit).high >= limit) return Errno(EINVAL);
  // One change at a time; and no block gets a huge page between the advice and the limit.
  const os::MutexLock lock(pager_.blocks().mutex());
  limit_bytes_.store(bytes, std::memory_order_relaxed);
  statistics_->setup.limit_bytes.store(bytes, std::memory_order_relaxed);
  if (limit < Budget::kUnlimited) {
    os::advise_huge_pages(arena_.base(), arena_.size(), os::HugePages::never);
    pager_.blocks().advise_all_small_locked();
  }
  budget_.set_limit(limit);
  return kOk;
}

void Manager::thread_begins() {
  if (const volatile std::uint32_t* word = os::current_cpu_word();
      word != nullptr && !owns(const_cast<std::uint32_t*>(word))) {
    pager_.thread_cpus().note(os::thread_id(), word);
  }
}

void Manager::thread_ends() {
  if (const volatile std::uint32_t* word = os::current_cpu_word(); word != nullptr) pager_.thread_cpus().forget(word);
}

void Manager::program_discard(void* address, std::size_t size) {
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(address);
  POLDER_CHECK(begin % kPageSize == 0 && size % kPageSize == 0 && size != 0, "whole pages", begin, size);
  POLDER_CHECK(owns(address) && size <= arena_.size() - (begin - reinterpret_cast<std::uintptr_t>(arena_.base())),
               "inside the arena", begin, size);
  pager_.drop_contents(Run{.first = arena_.page_of(address), .pages = pages_down(size)});
}

void Manager::withhold_evictable() {
  const os::MutexLock lock(pager_.blocks().mutex());
  pager_.withhold_memory_locked();
}

void Manager::fork_prepare() {
  pager_.fork_prepare();
  heap_.lock_for_fork();
  buddy_.fork_mutex().lock();
  pager_.blocks().mutex().lock();
  pool_.fork_mutex().lock();
  pager_.hand_on_memory_locked();
}

void Manager::fork_parent() {
  pager_.withhold_memory_locked();
  pool_.fork_mutex().unlock();
  pager_.blocks().mutex().unlock();
  buddy_.fork_mutex().unlock();
  heap_.unlock_after_fork_parent();
  pager_.fork_parent();
}

void Manager::fork_child(ThreadCache* survivor) {
  pool_.fork_mutex().reset_in_child();
  pager_.blocks().mutex().reset_in_child();
  buddy_.fork_mutex().reset_in_child();
  heap_.reset_after_fork_child(survivor);
  count_for_itself();
  pager_.fork_child();
}

void Manager::begin_in_bare_child() {
  count_for_itself();
  pager_.begin_in_bare_child();
}

// The supervisor's segment counts one process, and that is the parent.
void Manager::count_for_itself() {
  if (statistics_ == &private_statistics_) return;
  statistics_ = &private_statistics_;
  pager_.set_statistics(*statistics_);
  publish_layout();
}

void Manager::verify() {
  heap_.verify();
  buddy_.verify();
  pager_.verify();
}

}  // namespace polder
