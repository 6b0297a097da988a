// Turns native pageblocks into managed ones: registers them with userfaultfd, asks the kernel which of their pages exist,
// uncharges the rest, and hands the folios to the policy. From then on their pages fault to us and can be evicted.
//
// Runs on the reclaimer (and, in a forked child, on the new pager thread before anything else). Holds the blocks lock
// for one block at a time; faults on that block are parked meanwhile.
#pragma once

#include <cstdint>
#include <memory>

#include "os/mapping.h"
#include "os/pagemap.h"
#include "pager/parts.h"

namespace polder {

class Converter {
 public:
  explicit Converter(PagerParts& parts) : parts_(parts) {}

  // Opens what it needs in the calling thread's descriptor table.
  Errno prepare() { return pagemap_.open(); }

  // Converts the block that has been native longest. ENOENT: there is none. Otherwise the kernel's refusal (EBUSY:
  // another userfaultfd has it); the block stays native.
  Errno convert_oldest();

  // Makes blocks [first, first + count) managed, whatever they are. The first refusal ends it.
  Errno convert_range(BlockId first, BlockCount count);

  // A process that is made past the library's fork handlers would read zeros where memory is evicted. So it finds no managed
  // block at all, and touching one raises SIGSEGV; unless another thread has the handlers run at that moment: between the two
  // every process that is made finds them. Of the first an error as met.
  Errno hand_on_managed_locked() POLDER_REQUIRES(parts_.blocks.mutex());
  void withhold_managed_locked() POLDER_REQUIRES(parts_.blocks.mutex());

  // A forked child starts with nothing registered: registers every managed block with this process's userfaultfd,
  // corrects every word to what fork really copied and charges it. The policy is empty before.
  Errno adopt_in_child();

  // The descriptor was one of the parent's service threads.
  void reset_in_child() { std::construct_at(&pagemap_); }

 private:
  Errno convert_locked(BlockId block) POLDER_REQUIRES(parts_.blocks.mutex());
  Errno begin_managing(BlockId block, std::uint64_t* present);
  Errno set_inheritance_locked(os::Inheritance inheritance) POLDER_REQUIRES(parts_.blocks.mutex());
  Errno scan(BlockId block, std::uint64_t* present);
  PageCount adopt_block(BlockId block, const std::uint64_t* present);

  PagerParts& parts_;
  os::Pagemap pagemap_;
};

}  // namespace polder
