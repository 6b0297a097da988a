// How many stored pages to read with the one that a fault asks for, and when to read on. Sequential streams are
// recognised by their next expected page, as in the kernel's mm/readahead.c: from its third fault on, each fault of a stream
// doubles its window; any other fault reads one page and starts a stream of its own in place of the one used longest ago.
//
//   marker   the first stretch of what was read ahead last, which is not put in place before somebody comes for it: that is
//            the sign to read the next window, while there is still one to be used up
//
// Fault loop only.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/units.h"

namespace polder {

class Readahead {
 public:
  // 512 KiB: eight reads side by side.
  static constexpr std::uint32_t kMaxWindow = 8 * kPagesPerFolio;
  // Faults in a row that make a stream worth reading ahead of: two are an object that spans two pages.
  static constexpr std::uint32_t kTrusted = 3;

  // A trusted stream goes on where it was expected, or less than so many pages behind: those between may have been there.
  static constexpr std::uint32_t kReach = kPagesPerFolio;

  // Pages worth reading from `page` on, at least 1. Nothing is noted before advance(): a fault that has to be tried again is
  // no other one.
  std::uint32_t window(PageId page) {
    Stream* oldest = &streams_[0];
    for (Stream& stream : streams_) {
      if (stream.window != 0 && page.value - stream.next.value < (stream.length < kTrusted - 1 ? 1 : kReach)) {
        current_ = &stream;
        found_ = {.window = stream.length + 1 < kTrusted ? 1 : std::min(2 * stream.window, kMaxWindow),
                  .length = stream.length + 1};
        return found_.window;
      }
      if (stream.used < oldest->used) oldest = &stream;
    }
    current_ = oldest;
    found_ = {.window = 1, .length = 1};
    return 1;
  }

  // For the last window(), what was really read ends at `next`: there the stream's next fault is expected. Or before, at
  // the marker, if there is one.
  void advance(PageId next, PageId marker = kNoMarker) {
    *current_ = {.next = next, .marker = marker, .window = found_.window, .length = found_.length, .used = ++clock_};
  }

  // Somebody came for the stretch that starts with that marker: how many pages to read on, from where; 0 when no stream
  // knows it any more. Then advance().
  struct Ahead {
    PageId first;
    std::uint32_t pages;
  };
  Ahead reached(PageId marker) {
    for (Stream& stream : streams_) {
      if (stream.window == 0 || stream.marker != marker) continue;
      current_ = &stream;
      found_ = {.window = std::min(2 * stream.window, kMaxWindow), .length = stream.length + 1};
      return {stream.next, found_.window};
    }
    return {marker, 0};
  }

  static constexpr PageId kNoMarker{UINT32_MAX};

 private:
  struct Stream {
    PageId next{};
    PageId marker = kNoMarker;
    std::uint32_t window = 0;  // 0: unused
    std::uint32_t length = 0;  // faults
    std::uint64_t used = 0;
  };

  std::array<Stream, 16> streams_{};
  Stream* current_ = &streams_[0];  // of the last window() or reached(), and what becomes of it
  Stream found_;
  std::uint64_t clock_ = 0;
};

}  // namespace polder
