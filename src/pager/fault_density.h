// Where faults are dense: the second of a folio within a short time is a sign that its other pages are wanted too, in
// whatever order. Sequential streams are readahead.h's.
//
//   level   0 at a folio's first fault, one more at each that follows within `reach` faults of all; the neighbour of a folio
//           that is dense begins at 1
//   window  pages to bring in, aligned to it: 1, 8, then the folio. (Before there were probes, a hot set that moves, at twice the limit,
//           ran 1.9 times as fast as with single pages, with 4 for 8 1.7 times; random reads lose with 16, not with 8.)
//
//   probe   of a window one page is left out. When it is asked for soon, the window was worth reading; when its folio comes
//           again, or is forgotten, first, it was not. While few are asked for, one window in kUntrustedPart is tried
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
    page_ = page;
    reach_ = reach;
    probe_ = kNoProbe;
    const std::uint32_t folio = folio_of(page).value;
    level_ = 0;
    if (is_near(folio, reach)) {
      level_ = std::min(entry(folio).level + 1U, kDense);
    } else if (is_dense(folio - 1, reach) || is_dense(folio + 1, reach)) {
      level_ = 1;
    }
    const bool trusted = score_ >= kTrustedScore || windows_ % kUntrustedPart == 0;
    const std::uint32_t pages = kWindows[trusted ? level_ : 0];
    return {PageId{page.value & ~(pages - 1)}, {pages}};
  }
  // Leaves that page of the last window() out, which is wanted as much as the others: not for now.
  void probe(PageId page) { probe_ = page.value % kPagesPerFolio; }
  bool leaves_out(PageId page) const {
    return probe_ != kNoProbe && folio_of(page) == folio_of(page_) && page.value % kPagesPerFolio == probe_;
  }

  // The fault of the last window() was served.
  void advance() {
    const std::uint32_t folio = folio_of(page_).value;
    Entry& known = entry(folio);
    std::uint8_t pending = kNoProbe;
    if (known.when != 0 && known.probe != kNoProbe) {
      const bool soon = known.folio == folio && clock_ - known.when < kProbeReach * reach_;
      if (soon && known.probe != page_.value % kPagesPerFolio) {
        pending = known.probe;
      } else {
        score_ = soon ? score_ + (kFullScore - score_) / kScorePart : score_ - score_ / kScorePart;
      }
    }
    if (level_ != 0) ++windows_;
    if (probe_ != kNoProbe && pending == kNoProbe) pending = static_cast<std::uint8_t>(probe_);
    known = {.folio = folio, .when = ++clock_, .level = static_cast<std::uint8_t>(level_), .probe = pending};
    probe_ = kNoProbe;
  }

 private:
  static constexpr std::uint32_t kDense = 2;
  static constexpr std::uint32_t kWindows[kDense + 1] = {1, 8, kPagesPerFolio};
  static constexpr std::uint8_t kNoProbe = kPagesPerFolio;
  static constexpr std::uint32_t kProbeReach = 4;  // in reaches: how long a probe is waited for
  // Of probes that were asked for, of late, in parts of 1024: a quarter.
  static constexpr std::uint32_t kFullScore = 1024;
  static constexpr std::uint32_t kTrustedScore = kFullScore / 4;
  static constexpr std::uint32_t kScorePart = 32;
  static constexpr std::uint32_t kUntrustedPart = 64;

  struct Entry {
    std::uint32_t folio;
    std::uint32_t when;  // in faults; 0: unused
    std::uint8_t level;
    std::uint8_t probe;  // page of the folio that waits to be asked for
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
  std::uint32_t score_ = kFullScore / 2;
  std::uint32_t windows_ = 0;  // that were there to be read
  PageId page_;                // of the last window(), and the rest too
  std::uint32_t reach_ = 0;
  std::uint32_t level_ = 0;
  std::uint32_t probe_ = kNoProbe;
};

}  // namespace polder
