// Which pages of a range the kernel really holds: ioctl PAGEMAP_SCAN, or /proc/self/pagemap where that is missing.
// Kernel document: admin-guide/mm/pagemap.rst.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/errno.h"

namespace polder::os {

// Of one page: unknown when the kernel did not say (it had no memory for the answer).
enum class Presence : unsigned char { absent, present, unknown };

class Pagemap {
 public:
  Pagemap() = default;
  ~Pagemap();
  Pagemap(const Pagemap&) = delete;
  Pagemap& operator=(const Pagemap&) = delete;

  // Opens the calling process's own pagemap, close-on-exec.
  Errno open();
  void close();
  bool is_open() const { return fd_ >= 0; }

  // Sets bit i of `present` when page i of the range is present or in kernel swap, and clears it otherwise. `present`
  // holds at least one bit per page of the range, in 64-bit words.
  Errno scan_present(const void* address, std::size_t size, std::uint64_t* present);
  Presence presence(const void* page);

 private:
  int fd_ = -1;
  bool scan_works_ = true;  // false once the ioctl was refused
};

}  // namespace polder::os
