// Multi-generation LRU (Linux, Documentation/mm/multigen_lru.rst) on events, page by page:
//
//   generation   every page that came carries the number of one of four, two bits of it. A folio is on the list of its oldest
//                page's generation. When the oldest generation is empty the next one is the oldest, and a new one is opened
//   arrival      soft faults and early refaults: the youngest; first touches and late refaults: the one before it; what was
//                read ahead: the one before that. The folio's other pages do not get younger by it
//   choose       the pages of the oldest generation in the folio that is longest on its list; the others stay
//   tier         a page is warm when it was taken back from staging, or refaulted early. Warm pages are spared once, into
//                the next generation, while those that were evicted came back more often than cold ones do
//   early        within as many evicted pages as there are on the lists: with twice the memory it would have stayed. What
//                is remembered is when some page of the folio was evicted last
#pragma once

#include "pager/policy/policy.h"

namespace polder {

class MultiGenLru final : public Policy {
 public:
  explicit MultiGenLru(MetadataArray<AgeingNode>& nodes) : Policy(nodes) {}

 private:
  static constexpr std::uint32_t kGenerations = 4;
  static_assert(kGenerations == FolioLists::kListCount);

  // Of a tier, of late: pages that were evicted, and how many of them came back early.
  struct Tier {
    std::uint32_t evicted = 0;
    std::uint32_t refaulted = 0;
  };
  enum TierName : unsigned { kCold, kWarm, kTierCount };

  static unsigned list_of(std::uint32_t generation) { return 1 + generation % kGenerations; }
  static std::uint32_t generations_with(std::uint32_t generations, PageMask pages, std::uint32_t generation);
  PageMask pages_in(const AgeingNode& node, std::uint32_t generation) const;

  void arrived_locked(std::uint32_t folio, PageMask pages, Arrival how) override POLDER_REQUIRES(mutex_);
  Turn turn_locked(Victim& victim) override POLDER_REQUIRES(mutex_);
  void forget_locked() override POLDER_REQUIRES(mutex_);
  bool refaulted_early_locked(const AgeingNode& node) const POLDER_REQUIRES(mutex_);
  bool spares_warm_locked() const POLDER_REQUIRES(mutex_);
  void relist_locked(std::uint32_t folio) POLDER_REQUIRES(mutex_);
  void age_locked() POLDER_REQUIRES(mutex_);
  std::uint32_t youngest_locked() const POLDER_REQUIRES(mutex_) { return oldest_ + kGenerations - 1; }

  std::uint32_t oldest_ POLDER_GUARDED_BY(mutex_) = 0;
  std::uint32_t clock_ POLDER_GUARDED_BY(mutex_) = 1;  // pages evicted; 0 is never
  std::uint64_t pages_ POLDER_GUARDED_BY(mutex_) = 0;  // on the lists
  Tier tiers_[kTierCount] POLDER_GUARDED_BY(mutex_);
};

}  // namespace polder
