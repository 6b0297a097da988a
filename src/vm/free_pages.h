// Free memory that somebody keeps resident besides the buddy's dirty runs, for whoever decides how much of it there may
// be: the heap's decay, and the reclaimer.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace polder {

class FreePages {
 public:
  // Pages that are free and may be resident. Any thread, without a lock.
  virtual PageCount dirty() const = 0;
  struct Purged {
    PageCount pages;
    std::uint64_t pieces = 0;  // that they were in
  };
  // Purges about `most` of them; none when there are none. Any thread that holds no lock.
  virtual Purged purge_dirty(PageCount most) = 0;

 protected:
  ~FreePages() = default;
};

}  // namespace polder
