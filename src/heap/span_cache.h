// A thread's own free spans, as its magazines are for small objects: a few, the last freed first, whatever their lengths.
// To the block that they lie in (spans.h) they are kept: neither the program's nor free. Owned by one thread, never
// locked; touches no span. What it may hold is the heap's to say.
//
//   take    the youngest that is large enough, and aligned, and of which at most an eighth would be wasted
//   idle    what two sweeps have found here
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace polder {

class SpanCache {
 public:
  // Null when there is none.
  void* take(std::size_t size, std::size_t alignment) {
    for (unsigned i = count_; i > 0; --i) {
      const Entry& entry = entries_[i - 1];
      if (entry.size >= size && entry.size - size <= entry.size / kWastePart &&
          (reinterpret_cast<std::uintptr_t>(entry.span) & (alignment - 1)) == 0) {
        return remove(i - 1);
      }
    }
    return nullptr;
  }

  // Whether one more of that size would be too many, or more than `most` bytes together.
  bool is_full_for(std::size_t size, std::size_t most) const { return count_ == kEntries || bytes_ + size > most; }
  // Precondition: empty, or not full.
  void put(void* span, std::size_t size) {
    entries_[count_++] = {span, static_cast<std::uint32_t>(size), 0};
    bytes_ += static_cast<std::uint32_t>(size);
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
    std::uint32_t size;
    std::uint32_t sweeps;  // since it is here
  };

  void* remove(unsigned index) {
    void* const span = entries_[index].span;
    bytes_ -= entries_[index].size;
    for (--count_; index < count_; ++index) entries_[index] = entries_[index + 1];
    return span;
  }

  std::array<Entry, kEntries> entries_{};  // the oldest first
  std::uint32_t count_ = 0;
  std::uint32_t bytes_ = 0;
};

}  // namespace polder
