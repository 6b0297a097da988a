// A run: contiguous pages that were handed out together. Runs start on a granule and take whole granules of address
// space; only their pages, not the rest of the last granule, are handed out, charged and resident.
#pragma once

#include "base/units.h"

namespace polder {

struct Run {
  PageId first;
  PageCount pages;

  constexpr GranuleId first_granule() const { return granule_of(first); }
  constexpr GranuleCount granules() const { return granules_up(pages); }
  constexpr PageId end() const { return first + pages; }
};

}  // namespace polder
