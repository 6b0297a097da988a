// What the pager's parts share: one of each, owned by the Pager (pager.h), referred to by all.
#pragma once

#include "base/statistics_segment.h"
#include "os/userfaultfd.h"
#include "pager/folio_gate.h"
#include "pager/policy.h"
#include "pager/staging.h"
#include "pager/wakeups.h"
#include "store/store.h"
#include "vm/arena.h"
#include "vm/budget.h"
#include "vm/page_table.h"
#include "vm/pageblocks.h"

namespace polder {

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

// Copies what the budget and the pageblocks know into the statistics: a few stores, from slow paths of any thread.
inline void publish_gauges(const VmParts& parts) {
  StatisticsSegment::Allocation& gauges = parts.statistics->allocation;
  gauges.charged_bytes.store(bytes(parts.budget.charged()), std::memory_order_relaxed);
  gauges.peak_charged_bytes.store(bytes(parts.budget.peak()), std::memory_order_relaxed);
  gauges.metadata_bytes.store(bytes(parts.budget.metadata()), std::memory_order_relaxed);
  gauges.native_blocks.store(parts.blocks.native_blocks().value, std::memory_order_relaxed);
  gauges.managed_blocks.store(parts.blocks.managed_blocks().value, std::memory_order_relaxed);
}

}  // namespace polder
