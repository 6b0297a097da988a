// How many stored pages to read with the one that a fault asks for. Sequential streams are recognised by their next
// expected page, as in the kernel's mm/readahead.c: from its third fault on, each fault of a stream doubles its window;
// any other fault reads one page and starts a stream of its own in place of the one used longest ago.
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
  // 256 KiB: four reads side by side.
  static constexpr std::uint32_t kMaxWindow = 4 * kPagesPerFolio;
  // Faults in a row that make a stream worth reading ahead of: two are an object that spans two pages.
  static constexpr std::uint32_t kTrusted = 3;

  // Pages worth reading from `page` on, at least 1. Nothing is noted before advance(): a fault that has to be tried again is
  // no other one.
  std::uint32_t window(PageId page) {
    Stream* oldest = &streams_[0];
    for (Stream& stream : streams_) {
      if (stream.window != 0 && stream.next == page) {
        current_ = &stream;
        found_ = {.next = page,
                  .window = stream.length + 1 < kTrusted ? 1 : std::min(2 * stream.window, kMaxWindow),
                  .length = stream.length + 1};
        return found_.window;
      }
      if (stream.used < oldest->used) oldest = &stream;
    }
    current_ = oldest;
    found_ = {.next = page, .window = 1, .length = 1};
    return 1;
  }

  // For the last window(), what was really read ends at `next`: there the stream's next fault is expected.
  void advance(PageId next) {
    *current_ = {.next = next, .window = found_.window, .length = found_.length, .used = ++clock_};
  }

 private:
  struct Stream {
    PageId next;
    std::uint32_t window = 0;  // 0: unused
    std::uint32_t length = 0;  // faults
    std::uint64_t used = 0;
  };

  std::array<Stream, 16> streams_{};
  Stream* current_ = &streams_[0];  // of the last window(), and what becomes of it
  Stream found_;
  std::uint64_t clock_ = 0;
};

}  // namespace polder
