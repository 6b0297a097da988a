// First in, first out: folios leave in the order in which they came.
#pragma once

#include "pager/policy/policy.h"

namespace polder {

class Fifo final : public Policy {
 public:
  explicit Fifo(MetadataArray<AgeingNode>& nodes) : Policy(nodes) {}

 private:
  static constexpr unsigned kQueue = 1;

  void arrived_locked(std::uint32_t folio, PageMask, Arrival) override POLDER_REQUIRES(mutex_) {
    if (!lists_.listed(folio)) lists_.push_head(folio, kQueue);
  }
  Turn turn_locked(Victim& victim) override POLDER_REQUIRES(mutex_) {
    const std::uint32_t folio = lists_.tail(kQueue);
    if (folio == FolioLists::kNone) return Turn::none;
    lists_.remove(folio);
    victim = {FolioId{folio}, kAllPages};
    return Turn::chosen;
  }
};

}  // namespace polder
