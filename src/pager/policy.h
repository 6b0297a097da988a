// Which folios are evicted next. Without accessed bits from the hardware a policy lives on events: a page came back
// from staging (it was hot), was read back from the store after so many evictions (refault distance), was touched for
// the first time, or was found resident when its block became managed.
//
// Policies age folios, not pages: a folio's resident pages are evicted together with one move, and those that are
// wanted come back alone. Called by the fault loop and by whoever reclaims; an implementation locks itself (rank policy)
// and holds the lock for list work only.
#pragma once

#include <cstdint>
#include <span>

#include "base/units.h"

namespace polder {

enum class Arrival : std::uint8_t {
  converted,  // found resident when its block became managed
  zero,       // first touch
  staged,     // taken back out of staging: a soft fault
  stored,     // read back from the store
  ahead,      // filled without having been asked for
  refused,    // could not be evicted now; every other folio's turn comes before it is chosen again
};

class Policy {
 public:
  virtual ~Policy() = default;

  // A page of the folio became resident.
  virtual void arrived(FolioId folio, Arrival how) = 0;

  // Takes up to victims.size() folios off the lists, coldest first; the number taken. What of them stays resident is
  // given back by arrived(…, refused).
  virtual std::size_t choose(std::span<FolioId> victims) = 0;

  // Folios on the lists now.
  virtual FolioCount aged() const = 0;

  // A forked child starts over, whatever its parent's threads were doing to the lists: nothing is on them, history is
  // forgotten. `end` bounds the folios that were ever named. No other thread exists.
  virtual void reset_in_child(FolioId end) = 0;
};

}  // namespace polder
