// The counters of one process, in memory that a supervisor can read while the process runs and after it has died.
//
//   layout    plain and fixed: a header, then one group of cache lines per writer, so that an allocating thread never
//             shares a line with the pager. Every field is a lock-free 64-bit atomic, written relaxed, read by anybody
//   lifetime  private memory by default. `polder run --stats` makes a file of sizeof(StatisticsSegment), writes the header
//             with the command's process id, and names the file in POLDER_CONF (stats-segment, stats-owner). The process
//             whose id that is maps the file shared, checks valid_for(), calls reset() and counts there from then on;
//             its forked children and the programs it starts have other ids and count in private memory
//   meaning   counters only grow; gauges ("now") follow the state they name; sizes are bytes, times nanoseconds
//
// Fields are added at the end of a group in place of padding; anything else raises kVersion.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace polder {

using Counter = std::atomic<std::uint64_t>;
static_assert(Counter::is_always_lock_free && sizeof(Counter) == 8);

enum class StatisticsBackend : std::uint64_t { none = 0, uring = 1, workers = 2 };

// What the machine allows: nothing asked for yet, paging with UFFDIO_MOVE, paging with copies, or the allocator alone.
enum class StatisticsTier : std::uint64_t { unknown = 0, full = 1, copy = 2, allocator_only = 3 };

struct StatisticsSegment {
  static constexpr std::uint64_t kMagic = 0x5453'5245'444c'4f50;  // "POLDERST"
  static constexpr std::uint64_t kVersion = 2;

  // Written by the supervisor before the process runs; immutable afterwards.
  struct alignas(64) Header {
    std::uint64_t magic = kMagic;
    std::uint64_t version = kVersion;
    std::uint64_t size = 0;  // of the whole segment
    std::uint64_t owner_process = 0;
  } header;

  // Written once at start, and by whoever changes the limit or arms the pager.
  struct alignas(64) Setup {
    Counter limit_bytes{0};  // 0: none
    Counter metadata_base{0};
    Counter metadata_size{0};
    Counter staging_base{0};
    Counter staging_size{0};
    Counter arena_base{0};
    Counter arena_size{0};
    Counter tier{0};     // StatisticsTier
    Counter backend{0};  // StatisticsBackend, set when armed
    Counter armed{0};    // 1 once the pager runs
  } setup;

  // Written by threads that allocate, in their slow paths.
  struct alignas(64) Allocation {
    Counter charged_bytes{0};       // now
    Counter peak_charged_bytes{0};  // highest charged_bytes
    Counter metadata_bytes{0};      // now, part of charged_bytes
    Counter native_blocks{0};       // now
    Counter managed_blocks{0};      // now
    Counter throttled_ns{0};        // time allocating threads waited for room
    Counter purged_pages{0};        // free pages given back to the kernel
    Counter forks{0};
    Counter moved_pages{0};  // relocated by their page-table entries
  } allocation;

  // Written by the pager thread.
  struct alignas(64) Pager {
    Counter faults{0};             // messages received
    Counter soft_faults{0};        // of these, resolved by taking a page back out of staging
    Counter fills_zero{0};         // pages filled, by where their bytes came from; the fills of one fault-around count
    Counter fills_staged{0};       // each
    Counter fills_swap{0};         // asked for by a fault
    Counter fills_same_filled{0};  //
    Counter fills_readahead{0};    // read from swap without having been asked for
    Counter fill_wait_ns{0};       // from the arrival of a fault's message to its wake-up, summed
    Counter bytes_read{0};
    Counter read_errors{0};
  } pager;

  // Written by the reclaimer, and by threads that reclaim directly.
  struct alignas(64) Reclaim {
    Counter evictions{0};          // pages that left the arena for staging
    Counter clean_drops{0};        // of these, dropped because their retained slot still holds the same bytes
    Counter stored_pages{0};       // now: neither resident nor staged, their bytes in the store
    Counter same_filled_pages{0};  // now, part of stored_pages
    Counter bytes_written{0};
    Counter write_errors{0};
  } reclaim;

  bool valid_for(std::uint64_t process, std::size_t mapped_size) const {
    return mapped_size >= sizeof(StatisticsSegment) && header.magic == kMagic && header.version == kVersion &&
           header.size == sizeof(StatisticsSegment) && header.owner_process == process;
  }
};

static_assert(offsetof(StatisticsSegment, setup) == 64);
static_assert(sizeof(StatisticsSegment) % 64 == 0);

// Zeroes every counter and leaves the header: a program that replaces itself by exec keeps its process id and starts
// counting anew.
void reset(StatisticsSegment& segment);

// Adds to a counter that has several writers / exactly one writer at a time (no locked instruction).
inline void count(Counter& counter, std::uint64_t amount = 1) { counter.fetch_add(amount, std::memory_order_relaxed); }
inline void count_alone(Counter& counter, std::uint64_t amount = 1) {
  counter.store(counter.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
}

}  // namespace polder
