// A thread's own free spans, as its magazines are for small objects: a few, the last freed first, whatever their lengths.
// To the block that they lie in (spans.h) they are kept: neither the program's nor free. Owned by one thread, never
// locked; touches no span. What it may hold is the heap's to say.
//
//   take    the youngest that is long enough and of which at most an eighth would be wasted
//   idle    what two sweeps have found here
#pragma once

#include <array>
#include <cstdint>

#include "base/units.h"

namespace polder {

class SpanCache {
 public:
  // Null when there is none.
  void* take(PageCount pages) {
    for (unsigned i = count_; i > 0; --i) {
      const Entry& entry = entries_[i - 1];
      if (entry.pages >= pages.value && entry.pages - pages.value <= entry.pages / kWastePart) return remove(i - 1);
    }
    return nullptr;
  }

  // Whether one more of so many pages would be too many, or more than `most` pages together.
  bool is_full_for(PageCount pages, PageCount most) const {
    return count_ == kEntries || pages_ + pages.value > most.value;
  }
  // Precondition: empty, or not full.
  void put(void* span, PageCount pages) {
    entries_[count_++] = {span, static_cast<std::uint32_t>(pages.value), 0};
    pages_ += static_cast<std::uint32_t>(pages.value);
  }
  // Precondition: not empty.
  void* take_oldest() { return remove(0); }
  // Null when none is idle.
  void* take_idle() { return count_ != 0 && entries_[0].sweeps >= kIdleSweeps ? remove(0) : nullptr; }
  void note_sweep() {
    for (unsigned i = 0; i < count_; ++i) ++entries_[i].sweeps;
  }

  bool empty() const { return count_ == 0; }

 private:
  static constexpr unsigned kEntries = 16;
  static constexpr std::uint32_t kWastePart = 8;
  static constexpr std::uint32_t kIdleSweeps = 2;

  struct Entry {
    void* span;
    std::uint32_t pages;
    std::uint32_t sweeps;  // since it is here
  };

  void* remove(unsigned index) {
    void* const span = entries_[index].span;
    pages_ -= entries_[index].pages;
    for (--count_; index < count_; ++index) entries_[index] = entries_[index + 1];
    return span;
  }

  std::array<Entry, kEntries> entries_{};  // the oldest first
  std::uint32_t count_ = 0;
  std::uint32_t pages_ = 0;
};

}  // namespace polder
