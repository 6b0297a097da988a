// The order in which locks may be taken: a thread that holds a lock may take only locks of a HIGHER rank (two of equal
// rank only where the table says so). Debug and verify builds check every acquisition; fork takes the allocator's locks
// in this order.
//
// Locks from `thread_caches` on may be held by a thread that allocates. The fault loop takes none of those except the
// ranks marked "service", which no allocating thread ever takes: that is how no fault can wait for an allocation.
#pragma once

namespace polder {

enum class LockRank : unsigned char {
  reclaim,        // service: one thread at a time evicts
  thread_caches,  // heap: list of all thread caches
  central,        // heap: one per shard and size class; several at once in that order
  large,          // heap: quarantine, large runs, spans, granule map; never two at once except by fork, in this order
  buddy,          // vm: free runs
  blocks,         // vm: mode of pageblocks (native, managed)
  policy,         // service: ageing lists
  metadata,       // vm: allocator of unevictable metadata
  completions,    // os: queue between the synchronous I/O backend and its workers
  test,           // tests' own
  count
};

}  // namespace polder
