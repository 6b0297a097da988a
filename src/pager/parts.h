// What the pager's parts share: one of each, owned by the Pager (pager.h), referred to by all.
#pragma once

#include "base/statistics_segment.h"
#include "os/userfaultfd.h"
#include "pager/folio_gate.h"
#include "pager/policy/policy.h"
#include "pager/staging.h"
#include "pager/wakeups.h"
#include "store/store.h"
#include "vm/arena.h"
#include "vm/budget.h"
#include "vm/free_pages.h"
#include "vm/object_map.h"
#include "vm/page_table.h"
#include "vm/pageblocks.h"

namespace polder {

// The heap's, once it is there; null where the pager has none.
struct HeapParts {
  FreePages* free_pages = nullptr;  // purged before anything is evicted
  const ObjectMap* objects = nullptr;
};

// From the start.
struct VmParts {
  const Arena& arena;
  PageTable& table;
  Pageblocks& blocks;
  Budget& budget;
  StatisticsSegment* const& statistics;  // replaced in a forked child
};

// And once paging is armed.
struct PagerParts : VmParts {
  Policy& policy;
  FolioGate& gate;
  Staging& staging;
  Store& store;
  os::Userfaultfd& uffd;
  Wakeups& wakeups;
};

// Copies what the budget and the pageblocks know into the statistics, from slow paths of any thread: what has changed, as
// others' cache lines are dear to write to.
inline void publish_gauges(const VmParts& parts) {
  const auto publish = [](std::atomic<std::uint64_t>& gauge, std::uint64_t value) {
    if (gauge.load(std::memory_order_relaxed) != value) gauge.store(value, std::memory_order_relaxed);
  };
  StatisticsSegment::Allocation& gauges = parts.statistics->allocation;
  publish(gauges.charged_bytes, bytes(parts.budget.charged()));
  publish(gauges.peak_charged_bytes, bytes(parts.budget.peak()));
  publish(gauges.metadata_bytes, bytes(parts.budget.metadata()));
  publish(gauges.native_blocks, parts.blocks.native_blocks().value);
  publish(gauges.managed_blocks, parts.blocks.managed_blocks().value);
}

}  // namespace polder
