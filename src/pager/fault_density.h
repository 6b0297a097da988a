// Where faults are dense: the second of a folio within a short time is a sign that its other pages are wanted too, in
// whatever order. Sequential streams are readahead.h's.
//
//   level   0 at a folio's first fault, one more at each that follows within `reach` faults of all; the neighbour of a folio
//           that is dense begins at 1
//   window  pages to bring in, aligned to it: 1, 8, then the folio. (A hot set that moves, at twice the limit: 1.9 of what single
//           pages reach, with 4 for 8 it is 1.7; random reads lose with 16, not with 8.)
//
// A table of the folios that faulted last, direct-mapped: who is displaced begins anew. Fault loop only.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/units.h"
#include "vm/run.h"

namespace polder {

class FaultDensity {
 public:
  // Zeroed memory for a power of two of folios.
  static constexpr std::size_t bytes_for(std::uint32_t folios) { return folios * sizeof(Entry); }

  void use(void* memory, std::uint32_t folios) {
    entries_ = static_cast<Entry*>(memory);
    mask_ = folios - 1;
  }

  // The pages around that one that should come with it. Nothing is noted before advance(): a fault that has to be tried again is
  // no other one.
  Run window(PageId page, std::uint32_t reach) {
    folio_ = folio_of(page).value;
    level_ = 0;
    if (is_near(folio_, reach)) {
      level_ = std::min(entry(folio_).level + 1U, kDense);
    } else if (is_dense(folio_ - 1, reach) || is_dense(folio_ + 1, reach)) {
      level_ = 1;
    }
    const std::uint32_t pages = kWindows[level_];
    return {PageId{page.value & ~(pages - 1)}, {pages}};
  }

  // The fault of the last window() was served.
  void advance() { entry(folio_) = {.folio = folio_, .level = level_, .when = ++clock_}; }

 private:
  static constexpr std::uint32_t kDense = 2;
  static constexpr std::uint32_t kWindows[kDense + 1] = {1, 8, kPagesPerFolio};

  struct Entry {
    std::uint32_t folio;
    std::uint32_t level;
    std::uint32_t when;  // in faults; 0: unused
  };

  Entry& entry(std::uint32_t folio) const { return entries_[folio & mask_]; }
  bool is_near(std::uint32_t folio, std::uint32_t reach) const {
    const Entry& known = entry(folio);
    return known.when != 0 && known.folio == folio && clock_ - known.when < reach;
  }
  bool is_dense(std::uint32_t folio, std::uint32_t reach) const {
    return is_near(folio, reach) && entry(folio).level == kDense;
  }

  Entry* entries_ = nullptr;
  std::uint32_t mask_ = 0;
  std::uint32_t clock_ = 0;
  std::uint32_t folio_ = 0;  // of the last window()
  std::uint32_t level_ = 0;
};

}  // namespace polder
