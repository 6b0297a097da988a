// Moves pages of native blocks to other addresses: UFFDIO_MOVE through a descriptor that exists for one call only. What is
// moved belongs to the caller on both sides, so nobody can fault meanwhile, and no thread serves the descriptor.
//
// Runs on allocating threads; holds the blocks lock for one pageblock at a time. Fork takes that lock, so no forked child
// ever inherits the descriptor while memory is registered with it.
#pragma once

#include <atomic>
#include <optional>

#include "os/userfaultfd.h"
#include "pager/parts.h"
#include "vm/backing.h"
#include "vm/run.h"

namespace polder {

class Relocator {
 public:
  explicit Relocator(VmParts& parts) : parts_(parts) {}

  // Backing::relocate, into pages that were provided. Stops at blocks that are managed, at pages that are pinned or
  // shared with a forked child; moves nothing where the process may not use userfaultfd.
  PageCount relocate(Run from, PageId to);
  // Backing::recycle, with the same exceptions.
  PageCount recycle(DirtySource& source, Run to);

 private:
  bool open(os::Userfaultfd& mover);
  bool may_be_huge() const;
  Run first_resident(Run run) const;
  Run first_touched(Run run) const;
  // The pages of `to` that came so; nothing where it is refused.
  std::optional<PageCount> recycle_run(os::Userfaultfd& mover, Run from, Run to);
  PageCount relocate_piece(os::Userfaultfd& mover, Run from, PageId to);

  VmParts& parts_;
  std::atomic<bool> refused_{false};  // atomic: any thread; the kernel said no for good
};

}  // namespace polder
