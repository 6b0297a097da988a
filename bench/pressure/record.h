// The pages that a workload touches, in order, for bench/ageing: 32-bit numbers. What was among the last few is left out: in no
// memory would it be missed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace polder::bench {

class PageRecord {
 public:
  static bool on() { return file_ != nullptr; }
  // False when the file cannot be written.
  static bool begin(const char* path) {
    file_ = std::fopen(path, "we");
    return file_ != nullptr;
  }
  static bool end() {
    flush();
    const bool written = std::ferror(file_) == 0;
    return std::fclose(file_) == 0 && written;
  }

  static void touch(const void* at, std::size_t size) {
    if (!on() || size == 0) [[likely]]
      return;
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    for (std::uintptr_t page = address >> kShift; page <= (address + size - 1) >> kShift; ++page) add(page);
  }

 private:
  static constexpr unsigned kShift = 12;

  static void add(std::uintptr_t page) {
    const auto number = static_cast<std::uint32_t>(page);
    for (const std::uint32_t recent : recent_) {
      if (number == recent) return;
    }
    recent_[next_++ % kRecent] = number;
    if (count_ == kCapacity) flush();
    pages_[count_++] = number;
  }
  static void flush() {
    std::fwrite(pages_, sizeof pages_[0], count_, file_);
    count_ = 0;
  }

  static constexpr std::size_t kCapacity = std::size_t{1} << 16;
  static inline std::FILE* file_ = nullptr;
  static inline std::uint32_t pages_[kCapacity];  // not on the heap that is recorded
  static inline std::size_t count_ = 0;
  static constexpr std::size_t kRecent = 4;
  static inline std::uint32_t recent_[kRecent] = {};
  static inline std::size_t next_ = 0;
};

}  // namespace polder::bench
