// Free memory that somebody keeps resident besides the buddy's dirty runs, for whoever decides how much of it there may
// be: the heap's decay, and the reclaimer.
#pragma once

#include "base/units.h"

namespace polder {

class FreePages {
 public:
  // Pages that are free and may be resident. Any thread, without a lock.
  virtual PageCount dirty() const = 0;
  // Purges about `most` of them; how many, 0 when there are none. Any thread that holds no lock.
  virtual PageCount purge_dirty(PageCount most) = 0;

 protected:
  ~FreePages() = default;
};

}  // namespace polder
