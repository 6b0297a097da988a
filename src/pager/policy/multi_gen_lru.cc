#include "pager/policy/multi_gen_lru.h"

#include <bit>

namespace polder {

namespace {

// Even bits: a page's pair is set where its bit is.
std::uint32_t spread(PageMask pages) {
  std::uint32_t bits = pages;
  bits = (bits | bits << 8) & 0x00FF00FF;
  bits = (bits | bits << 4) & 0x0F0F0F0F;
  bits = (bits | bits << 2) & 0x33333333;
  return (bits | bits << 1) & 0x55555555;
}

PageMask gather(std::uint32_t bits) {
  bits &= 0x55555555;
  bits = (bits | bits >> 1) & 0x33333333;
  bits = (bits | bits >> 2) & 0x0F0F0F0F;
  bits = (bits | bits >> 4) & 0x00FF00FF;
  return static_cast<PageMask>(bits | bits >> 8);
}

std::uint32_t population(PageMask pages) { return static_cast<std::uint32_t>(std::popcount(pages)); }

}  // namespace

std::uint32_t MultiGenLru::generations_with(std::uint32_t generations, PageMask pages, std::uint32_t generation) {
  const std::uint32_t pairs = spread(pages);
  return (generations & ~(3 * pairs)) | (generation % kGenerations) * pairs;
}

PageMask MultiGenLru::pages_in(const AgeingNode& node, std::uint32_t generation) const {
  const std::uint32_t different = node.generations ^ (generation % kGenerations) * 0x55555555U;
  return gather(~(different | different >> 1)) & node.pages;
}

bool MultiGenLru::refaulted_early_locked(const AgeingNode& node) const {
  return node.evicted_at != 0 && clock_ - node.evicted_at <= pages_;
}

bool MultiGenLru::spares_warm_locked() const {
  const Tier& cold = tiers_[kCold];
  const Tier& warm = tiers_[kWarm];
  return std::uint64_t{warm.refaulted} * (cold.evicted + 1) > std::uint64_t{cold.refaulted} * (warm.evicted + 1);
}

void MultiGenLru::arrived_locked(std::uint32_t folio, PageMask pages, Arrival how) {
  AgeingNode& node = lists_[folio];
  std::uint32_t generation = youngest_locked() - 1;
  switch (how) {
    case Arrival::staged:
      generation = youngest_locked();
      node.warm |= pages;
      break;
    case Arrival::stored:
      if (refaulted_early_locked(node)) {
        generation = youngest_locked();
        tiers_[kWarm].refaulted += population(node.warm & pages);
        tiers_[kCold].refaulted += population(static_cast<PageMask>(~node.warm & pages));
        node.warm |= pages;
      } else {
        node.warm &= static_cast<PageMask>(~pages);
      }
      break;
    case Arrival::ahead:
      generation = youngest_locked() - 2;
      break;
    case Arrival::refused:
      generation = youngest_locked();
      break;
    case Arrival::converted:
    case Arrival::zero:
      break;
  }
  pages_ += population(static_cast<PageMask>(pages & ~node.pages));
  node.pages |= pages;
  node.generations = generations_with(node.generations, pages, generation);
  relist_locked(folio);
}

// Puts the folio on the list of its oldest page.
void MultiGenLru::relist_locked(std::uint32_t folio) {
  const AgeingNode& node = lists_[folio];
  if (node.pages == 0) {
    if (node.list != 0) lists_.remove(folio);
    return;
  }
  std::uint32_t generation = oldest_;
  while (pages_in(node, generation) == 0) ++generation;
  const unsigned list = list_of(generation);
  if (node.list == list) return;
  if (node.list != 0) lists_.remove(folio);
  lists_.push_head(folio, list);
}

void MultiGenLru::age_locked() {
  ++oldest_;
  for (Tier& tier : tiers_) {
    tier.evicted /= 2;
    tier.refaulted /= 2;
  }
}

Policy::Turn MultiGenLru::turn_locked(Victim& victim) {
  if (pages_ == 0) return Turn::none;
  const std::uint32_t folio = lists_.tail(list_of(oldest_));
  if (folio == FolioLists::kNone) {
    age_locked();
    return Turn::spared;
  }
  AgeingNode& node = lists_[folio];
  PageMask leaving = pages_in(node, oldest_);
  if (const PageMask spared = spares_warm_locked() ? leaving & node.warm : 0; spared != 0) {
    node.generations = generations_with(node.generations, spared, oldest_ + 1);
    node.warm &= static_cast<PageMask>(~spared);
    leaving &= static_cast<PageMask>(~spared);
  }
  node.pages &= static_cast<PageMask>(~leaving);
  pages_ -= population(leaving);
  relist_locked(folio);
  if (leaving == 0) return Turn::spared;
  tiers_[kWarm].evicted += population(leaving & node.warm);
  tiers_[kCold].evicted += population(static_cast<PageMask>(leaving & ~node.warm));
  node.evicted_at = clock_;
  clock_ += population(leaving);
  if (clock_ < population(leaving)) clock_ = 1;
  // Whatever lies there and is not known to have come leaves too.
  victim = {FolioId{folio}, static_cast<PageMask>(~node.pages)};
  return Turn::chosen;
}

void MultiGenLru::forget_locked() {
  oldest_ = 0;
  clock_ = 1;
  pages_ = 0;
  for (Tier& tier : tiers_) tier = Tier{};
}

}  // namespace polder
