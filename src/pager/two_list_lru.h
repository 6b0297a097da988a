// Two-list LRU with second chance, as in the kernel's mm/vmscan.c and mm/workingset.c, over folios and events:
//
//   arrival by first touch or conversion    head of inactive
//   soft fault (second touch seen)          head of active
//   refused by the kernel or the store      head of active: everything else is tried before it is tried again
//   refault within the active list's reach  head of active; a later one: head of inactive
//   choose                                  tail of inactive; the tail of active is demoted whenever inactive holds
//                                           less than a third of all
//
// Refault distance is counted in evicted folios: folios that return before as many others were evicted as the lists
// hold would have stayed with a little more memory.
#pragma once

#include "os/mutex.h"
#include "pager/policy.h"
#include "vm/metadata.h"

namespace polder {

class TwoListLru final : public Policy {
 public:
  // Zero is "on no list, never evicted".
  struct Node {
    std::uint32_t next;        // folio id + 1 towards the tail, 0 ends
    std::uint32_t previous;    // folio id + 1 towards the head
    std::uint32_t evicted_at;  // value of the eviction clock when last chosen; 0 never
    std::uint32_t list;        // 0 none, 1 inactive, 2 active
  };

  // The owner keeps `nodes` accessible for every folio it names.
  explicit TwoListLru(MetadataArray<Node>& nodes) : nodes_(nodes) {}

  void arrived(FolioId folio, Arrival how) override;
  std::size_t choose(std::span<FolioId> victims) override;
  FolioCount aged() const override;
  void reset_in_child(FolioId end) override POLDER_NO_THREAD_SAFETY_ANALYSIS;

  FolioCount active() const;

 private:
  enum ListName : std::uint32_t { kNone, kInactive, kActive, kListCount };
  struct List {
    std::uint32_t head = 0;
    std::uint32_t tail = 0;
    std::uint32_t length = 0;
  };

  void push_head_locked(std::uint32_t folio, ListName list) POLDER_REQUIRES(mutex_);
  void remove_locked(std::uint32_t folio) POLDER_REQUIRES(mutex_);
  void balance_locked() POLDER_REQUIRES(mutex_);
  bool refaulted_early_locked(const Node& node) const POLDER_REQUIRES(mutex_);

  mutable os::Mutex mutex_{LockRank::policy};
  MetadataArray<Node>& nodes_;  // guarded by mutex_
  List lists_[kListCount] POLDER_GUARDED_BY(mutex_);
  std::uint32_t clock_ POLDER_GUARDED_BY(mutex_) = 1;  // folios evicted, never 0
};

}  // namespace polder
