#include "pager/policy/clock.h"

namespace polder {

// Of a node: `pages` are those that came, `warm` those of them that came without a copy.
void Clock::arrived_locked(std::uint32_t folio, PageMask pages, Arrival how) {
  AgeingNode& node = lists_[folio];
  node.pages |= pages;
  if (how == Arrival::zero || how == Arrival::converted) node.warm |= pages;
  if (how == Arrival::stored || how == Arrival::ahead) node.warm &= static_cast<PageMask>(~pages);
  if (lists_.listed(folio)) {
    if (how != Arrival::converted && how != Arrival::ahead) node.referenced = 1;
    return;
  }
  node.referenced = how == Arrival::staged || how == Arrival::refused ? 1 : 0;
  lists_.push_head(folio, kRing);
}

Policy::Turn Clock::turn_locked(Victim& victim) {
  std::uint32_t folio = kind_ == Kind::enhanced ? unmodified_locked() : FolioLists::kNone;
  if (folio == FolioLists::kNone) folio = lists_.tail(kRing);
  if (folio == FolioLists::kNone) return Turn::none;
  AgeingNode& node = lists_[folio];
  if (node.referenced != 0) {
    node.referenced = 0;
    lists_.move_to_head(folio, kRing);
    return Turn::spared;
  }
  lists_.remove(folio);
  node.pages = node.warm = 0;
  victim = {FolioId{folio}, kAllPages};
  return Turn::chosen;
}

// The one next to the hand that is neither referenced nor modified; kNone when none is near.
std::uint32_t Clock::unmodified_locked() const {
  std::uint32_t folio = lists_.tail(kRing);
  for (unsigned i = 0; i < kLookedAt && folio != FolioLists::kNone; ++i, folio = lists_.before(folio)) {
    const AgeingNode& node = lists_[folio];
    if (node.referenced == 0 && (node.pages & node.warm) == 0) return folio;
  }
  return FolioLists::kNone;
}

}  // namespace polder
