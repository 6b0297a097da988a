// Which pages are evicted next. Without accessed bits from the hardware a policy lives on events: a page came back
// from staging (it was hot), was read back from the store after so many evictions (refault distance), was touched for
// the first time, or was found resident when its block became managed.
//
// Policies keep folios on lists: neighbours are evicted together, with one move, and those that are wanted come back
// alone. A policy may name some pages of a folio only. Called by the fault loop and by whoever reclaims; the lock (rank
// policy) is held for list work only.
#pragma once

#include <cstdint>

#include "base/units.h"
#include "os/mutex.h"
#include "pager/policy/folio_lists.h"

namespace polder {

enum class Arrival : std::uint8_t {
  converted,  // found resident when its block became managed
  zero,       // first touch
  staged,     // taken back out of staging: a soft fault
  stored,     // read back from the store
  ahead,      // filled without having been asked for
  refused,    // could not be evicted now; every other folio's turn comes before it is chosen again
};

// Those of the folio's pages that should leave; which of them are there, the policy does not know for certain.
struct Victim {
  FolioId folio;
  PageMask pages = kAllPages;
};

class Policy {
 public:
  virtual ~Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;

  // These pages of the folio became resident.
  void arrived(FolioId folio, PageMask pages, Arrival how) {
    const os::MutexLock lock(mutex_);
    arrived_locked(folio.value, pages, how);
  }

  // The coldest pages first; false when there are none. What of them stays resident is given back by arrived(…, refused).
  bool choose(Victim& victim) {
    for (;;) {
      // The lock for one turn only: a fault that arrives meanwhile need not wait for all that is spared.
      const os::MutexLock lock(mutex_);
      const Turn turn = turn_locked(victim);
      if (turn != Turn::spared) return turn == Turn::chosen;
    }
  }

  // Folios on the lists now.
  FolioCount aged() const {
    const os::MutexLock lock(mutex_);
    return {lists_.total()};
  }

  // A forked child starts over, whatever its parent's threads were doing to the lists: nothing is on them, history is
  // forgotten. `end` bounds the folios that were ever named. No other thread exists.
  void reset_in_child(FolioId end) POLDER_NO_THREAD_SAFETY_ANALYSIS {
    mutex_.abandon_in_child();
    lists_.clear(end.value);
    forget_locked();
  }

 protected:
  explicit Policy(MetadataArray<AgeingNode>& nodes) : lists_(nodes) {}

  // What became of the folio whose turn it was; spared, it may come again only a finite number of times before another.
  enum class Turn : unsigned char { chosen, spared, none };

  mutable os::Mutex mutex_{LockRank::policy};
  FolioLists lists_ POLDER_GUARDED_BY(mutex_);

 private:
  virtual void arrived_locked(std::uint32_t folio, PageMask pages, Arrival how) POLDER_REQUIRES(mutex_) = 0;
  virtual Turn turn_locked(Victim& victim) POLDER_REQUIRES(mutex_) = 0;
  virtual void forget_locked() POLDER_REQUIRES(mutex_) {}
};

}  // namespace polder
