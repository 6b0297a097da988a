// Two-list LRU with second chance, as in the kernel's mm/vmscan.c and mm/workingset.c, over folios and events:
//
//   arrival by first touch or conversion    head of inactive
//   soft fault (second touch seen)          head of active
//   refused by the kernel or the store      head of active: everything else is tried before it is tried again
//   refault within the active list's reach  head of active; a later one: head of inactive
//   choose                                  tail of inactive; the tail of active is demoted whenever inactive holds
//                                           less than a third of all, and once in kEvictionsPerDemotion evictions
//
// Refault distance is counted in evicted folios: folios that return before as many others were evicted as the lists
// hold would have stayed with a little more memory.
//
// The kernel learns from accessed bits what of the active list is used no more. Here nothing tells, so that each of its
// folios has to prove itself again from time to time. (Measured on traces of two sizes, misses with this to without:
// quicksort with memory for a quarter of its data 0.89 and 0.93, for a half 0.96 and 0.98, for three quarters 1.02 and
// 1.01; all others 0.996 to 1.014.)
#pragma once

#include "pager/policy/policy.h"

namespace polder {

class TwoListLru final : public Policy {
 public:
  explicit TwoListLru(MetadataArray<AgeingNode>& nodes) : Policy(nodes) {}

  FolioCount active() const {
    const os::MutexLock lock(mutex_);
    return {lists_.length(kActive)};
  }

 private:
  static constexpr unsigned kInactive = 1;
  static constexpr unsigned kActive = 2;
  static constexpr std::uint32_t kEvictionsPerDemotion = 10;

  void arrived_locked(std::uint32_t folio, PageMask pages, Arrival how) override POLDER_REQUIRES(mutex_);
  Turn turn_locked(Victim& victim) override POLDER_REQUIRES(mutex_);
  void forget_locked() override POLDER_REQUIRES(mutex_) { clock_ = 1; }
  void balance_locked() POLDER_REQUIRES(mutex_);
  bool refaulted_early_locked(const AgeingNode& node) const POLDER_REQUIRES(mutex_);

  std::uint32_t clock_ POLDER_GUARDED_BY(mutex_) = 1;  // folios evicted, never 0
};

}  // namespace polder
