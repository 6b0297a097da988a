// CLOCK: first in, first out with a second chance for what was referenced since the hand was there (F. J. Corbató, "A Paging
// Experiment with the Multics System", 1968). What the hardware's bit would say is known of pages that had to be brought
// in: a folio is referenced when another of its pages comes, or when one is taken back out of staging.
//
// Enhanced: among those next to the hand, what was not modified goes first, as it leaves without a write. Modified is a
// folio with pages that came without a copy in the store.
#pragma once

#include "pager/policy/policy.h"

namespace polder {

class Clock final : public Policy {
 public:
  enum class Kind : unsigned char { plain, enhanced };

  Clock(MetadataArray<AgeingNode>& nodes, Kind kind) : Policy(nodes), kind_(kind) {}

 private:
  static constexpr unsigned kRing = 1;       // the hand is at its tail
  static constexpr unsigned kLookedAt = 32;  // folios in front of the hand

  void arrived_locked(std::uint32_t folio, PageMask pages, Arrival how) override POLDER_REQUIRES(mutex_);
  Turn turn_locked(Victim& victim) override POLDER_REQUIRES(mutex_);
  std::uint32_t unmodified_locked() const POLDER_REQUIRES(mutex_);

  const Kind kind_;
};

}  // namespace polder
