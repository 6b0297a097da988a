// A run: contiguous pages that were handed out together. Runs start on a granule and take whole granules of address
// space; only their pages, not the rest of the last granule, are handed out, charged and resident.
#pragma once

#include <algorithm>

#include "base/units.h"

namespace polder {

struct Run {
  PageId first;
  PageCount pages;

  constexpr GranuleId first_granule() const { return granule_of(first); }
  constexpr GranuleCount granules() const { return granules_up(pages); }
  constexpr PageId end() const { return first + pages; }
};

// The part of the run that starts at `first` and ends with first's pageblock.
constexpr Run piece_of(Run run, PageId first) {
  const PageId block_end = first_page(block_of(first) + BlockCount{1});
  return {.first = first, .pages = std::min(run.end(), block_end) - first};
}

// Calls visit(Run) for the run's part of each pageblock.
template <typename Visit>
constexpr void for_each_piece(Run run, Visit visit) {
  for (PageId page = run.first; page < run.end();) {
    const Run piece = piece_of(run, page);
    visit(piece);
    page = piece.end();
  }
}

}  // namespace polder
