// How many stored pages to read with the one that a fault asks for, and when to read on. Sequential streams, upwards or
// downwards, are recognised by their next expected page, as in the kernel's mm/readahead.c: from its third fault on, each
// fault of a stream doubles its window; any other fault reads one page and starts a stream of its own in place of the one used
// longest ago.
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
  // Once two have come, a stream goes on where it was expected, or less than so many pages beyond: those between may have been
  // there.
  static constexpr std::uint32_t kReach = kPagesPerFolio;
  static constexpr PageId kNowhere{UINT32_MAX};

  enum class Direction : std::uint8_t { up, down };

  struct Window {
    std::uint32_t pages = 1;  // with the fault's own
    Direction direction = Direction::up;
    std::uint32_t length = 1;  // of the stream so far, in faults
  };
  // What is worth reading from `page` on. Nothing is noted before advance(): a fault that has to be tried again is no other
  // one.
  Window window(PageId page) {
    Stream* oldest = &streams_[0];
    for (Stream& stream : streams_) {
      if (stream.window != 0) {
        if (continues(stream, Direction::up, page)) return follow(stream, Direction::up);
        if (continues(stream, Direction::down, page)) return follow(stream, Direction::down);
      }
      if (stream.used < oldest->used) oldest = &stream;
    }
    current_ = oldest;
    found_ = {};
    found_.window = 1;
    found_.length = 1;
    found_.other = PageId{page.value - 1};
    return {};
  }

  // Of the last window() or reached(): where the stream's next fault is expected, behind what was really read, or where it
  // may come before: the marker's first page.
  void advance(PageId next, PageId marker = kNowhere) {
    *current_ = found_;
    current_->next = next;
    current_->marker = marker;
    current_->used = ++clock_;
  }

  // Somebody came for the stretch that starts with that marker. Nothing when no stream knows it any more; otherwise what to
  // read on, and advance() then.
  struct Ahead {
    PageId from{};            // first page in the direction
    std::uint32_t pages = 0;  // 0: nothing
    Direction direction = Direction::up;
  };
  Ahead reached(PageId marker) {
    for (Stream& stream : streams_) {
      if (stream.window == 0 || stream.marker != marker) continue;
      const Window wider = follow(stream, stream.direction);
      return {stream.next, wider.pages, wider.direction};
    }
    return {};
  }

 private:
  struct Stream {
    PageId next = kNowhere;
    PageId other = kNowhere;  // the same for a single fault's that may go down
    PageId marker = kNowhere;
    Direction direction = Direction::up;
    std::uint32_t window = 0;  // 0: unused
    std::uint32_t length = 0;  // faults
    std::uint64_t used = 0;
  };

  static bool continues(const Stream& stream, Direction direction, PageId page) {
    if (stream.length == 1) return page == (direction == Direction::up ? stream.next : stream.other);
    if (stream.direction != direction) return false;
    const std::uint32_t beyond =
        direction == Direction::up ? page.value - stream.next.value : stream.next.value - page.value;
    return beyond < kReach;
  }
  Window follow(Stream& stream, Direction direction) {
    current_ = &stream;
    found_ = stream;
    found_.direction = direction;
    found_.length = stream.length + 1;
    found_.window = found_.length < kTrusted ? 1 : std::min(2 * stream.window, kMaxWindow);
    return {found_.window, direction, found_.length};
  }

  std::array<Stream, 16> streams_{};
  Stream* current_ = &streams_[0];  // of the last window() or reached(), and what becomes of it
  Stream found_;
  std::uint64_t clock_ = 0;
};

}  // namespace polder
