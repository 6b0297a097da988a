#include "pager/policy/two_list_lru.h"

namespace polder {

bool TwoListLru::refaulted_early_locked(const AgeingNode& node) const {
  if (node.evicted_at == 0) return false;
  const std::uint32_t distance = clock_ - node.evicted_at;
  return distance <= lists_.length(kActive);
}

void TwoListLru::arrived_locked(std::uint32_t folio, PageMask, Arrival how) {
  const AgeingNode& node = lists_[folio];
  unsigned target = kInactive;
  switch (how) {
    case Arrival::staged:
    case Arrival::refused:
      target = kActive;
      break;
    case Arrival::stored:
      if (refaulted_early_locked(node)) target = kActive;
      break;
    case Arrival::converted:
    case Arrival::zero:
    case Arrival::ahead:
      break;
  }
  if (!lists_.listed(folio)) {
    lists_.push_head(folio, target);
  } else if (node.list != target || how == Arrival::staged || how == Arrival::stored) {
    // Never demote by an arrival; a page that was asked for moves its folio to the head again.
    if (node.list == kActive) target = kActive;
    if (how == Arrival::ahead) return;
    lists_.move_to_head(folio, target);
  }
}

void TwoListLru::balance_locked() {
  while (lists_.length(kActive) > 2 * lists_.length(kInactive)) {
    lists_.move_to_head(lists_.tail(kActive), kInactive);
  }
  const std::uint32_t oldest = lists_.tail(kActive);
  if (clock_ % kEvictionsPerDemotion == 0 && oldest != FolioLists::kNone) lists_.move_to_head(oldest, kInactive);
}

Policy::Turn TwoListLru::turn_locked(Victim& victim) {
  balance_locked();
  const std::uint32_t folio = lists_.tail(kInactive);
  if (folio == FolioLists::kNone) return Turn::none;
  lists_.remove(folio);
  lists_[folio].evicted_at = clock_;
  clock_ = clock_ == ~std::uint32_t{0} ? 1 : clock_ + 1;
  victim = {FolioId{folio}, kAllPages};
  return Turn::chosen;
}

}  // namespace polder
