// include/polder/polder.h.
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include "base/statistics_segment.h"
#include "runtime/export.h"
#include "runtime/instance.h"
#include "runtime/limits.h"

extern "C" {
#pragma GCC visibility push(default)
#include "polder/polder.h"
#pragma GCC visibility pop
}

namespace {

std::uint64_t read(const polder::Counter& counter) { return counter.load(std::memory_order_relaxed); }

}  // namespace

using polder::runtime::start_manager;

extern "C" const char* polder_version() noexcept { return POLDER_VERSION; }

extern "C" int polder_set_memory_limit(std::size_t bytes) noexcept {
  if (bytes != 0 && bytes < polder::runtime::kMinimumLimit) return EINVAL;
  return start_manager().set_memory_limit(bytes).code();
}

extern "C" std::size_t polder_get_memory_limit() noexcept { return start_manager().memory_limit(); }

extern "C" int polder_get_statistics(struct polder_statistics* statistics) noexcept {
  if (statistics->size < sizeof(struct polder_statistics)) return EINVAL;
  const polder::StatisticsSegment& counters = start_manager().statistics();
  *statistics = {
      .size = sizeof(struct polder_statistics),
      .limit_bytes = read(counters.setup.limit_bytes),
      .charged_bytes = read(counters.allocation.charged_bytes),
      .peak_charged_bytes = read(counters.allocation.peak_charged_bytes),
      .metadata_bytes = read(counters.allocation.metadata_bytes),
      .stored_bytes = read(counters.reclaim.stored_pages) << polder::kPageShift,
      .faults = read(counters.pager.faults),
      .soft_faults = read(counters.pager.soft_faults),
      .fills_zero = read(counters.pager.fills_zero),
      .fills_swap = read(counters.pager.fills_swap),
      .fills_same_filled = read(counters.pager.fills_same_filled),
      .fills_readahead = read(counters.pager.fills_readahead),
      .fill_wait_ns = read(counters.pager.fill_wait_ns),
      .evictions = read(counters.reclaim.evictions),
      .bytes_read = read(counters.pager.bytes_read),
      .bytes_written = read(counters.reclaim.bytes_written),
      .io_errors = read(counters.pager.read_errors) + read(counters.reclaim.write_errors),
      .throttled_ns = read(counters.allocation.throttled_ns),
  };
  return 0;
}
