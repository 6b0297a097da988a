#include "os/pagemap.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/check.h"
#include "base/units.h"
#include "os/syscall.h"

namespace polder::os {
namespace {

// include/uapi/linux/fs.h of 6.7.
struct PageRegion {
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t categories;
};

struct PagemapScan {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(PageRegion) == 24 && sizeof(PagemapScan) == 96);

constexpr unsigned long kIoctlScan = _IOWR('f', 16, PagemapScan);
constexpr std::uint64_t kPageIsPresent = 1U << 3;
constexpr std::uint64_t kPageIsSwapped = 1U << 4;

// Variables, not texts, which runtime/layout.ld puts where nobody reads.
constexpr char kPath[] = "/proc/self/pagemap";

// Bits of a /proc/self/pagemap word.
constexpr std::uint64_t kEntryPresent = std::uint64_t{1} << 63;
constexpr std::uint64_t kEntrySwapped = std::uint64_t{1} << 62;

void set_bits(std::uint64_t* bits, std::size_t first, std::size_t end) {
  while (first < end) {
    const std::size_t offset = first % 64;
    const std::size_t room = 64 - offset;
    const std::size_t count = end - first < room ? end - first : room;
    const std::uint64_t ones = count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
    bits[first / 64] |= ones << offset;
    first += count;
  }
}

Errno scan_by_ioctl(int fd, std::uintptr_t start, std::uintptr_t end, std::uint64_t* present) {
  PageRegion regions[128];
  std::uintptr_t next = start;
  while (next < end) {
    PagemapScan scan{};
    scan.size = sizeof scan;
    scan.start = next;
    scan.end = end;
    scan.vec = reinterpret_cast<std::uintptr_t>(regions);
    scan.vec_len = sizeof regions / sizeof regions[0];
    scan.category_anyof_mask = kPageIsPresent | kPageIsSwapped;
    scan.return_mask = kPageIsPresent;  // one category, so that neighbours merge into one region
    const long count = uninterrupted_call(SYS_ioctl, fd, kIoctlScan, &scan);
    if (count < 0) return as_errno(count);
    for (long i = 0; i < count; ++i) {
      set_bits(present, (regions[i].start - start) / kPageSize, (regions[i].end - start) / kPageSize);
    }
    POLDER_CHECK(scan.walk_end > next && scan.walk_end <= end, "pagemap scan made no progress", next, scan.walk_end);
    next = scan.walk_end;
  }
  return kOk;
}

Errno scan_by_reading(int fd, std::uintptr_t start, std::uintptr_t end, std::uint64_t* present) {
  std::uint64_t entries[256];
  const std::size_t pages = (end - start) / kPageSize;
  std::size_t page = 0;
  while (page < pages) {
    const std::size_t wanted = pages - page < 256 ? pages - page : 256;
    const std::uint64_t offset = (start / kPageSize + page) * sizeof entries[0];
    const long length = uninterrupted_call(SYS_pread64, fd, entries, wanted * sizeof entries[0], offset);
    if (length < 0) return as_errno(length);
    const std::size_t received = static_cast<std::size_t>(length) / sizeof entries[0];
    if (received == 0) return Errno(EFAULT);  // beyond the address space
    for (std::size_t i = 0; i < received; ++i) {
      if ((entries[i] & (kEntryPresent | kEntrySwapped)) != 0) set_bits(present, page + i, page + i + 1);
    }
    page += received;
  }
  return kOk;
}

}  // namespace

Pagemap::~Pagemap() { close(); }

Errno Pagemap::open() {
  POLDER_CHECK(fd_ < 0, "pagemap is open already", fd_);
  const long fd = uninterrupted_call(SYS_openat, AT_FDCWD, kPath, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return as_errno(fd);
  fd_ = static_cast<int>(fd);
  return kOk;
}

void Pagemap::close() {
  if (fd_ < 0) return;
  static_cast<void>(system_call(SYS_close, fd_));
  fd_ = -1;
}

Errno Pagemap::scan_present(const void* address, std::size_t size, std::uint64_t* present) {
  const auto start = reinterpret_cast<std::uintptr_t>(address);
  POLDER_CHECK(size != 0 && (start | size) % kPageSize == 0, "scan: range", address, size);
  const std::size_t words = (size / kPageSize + 63) / 64;
  for (std::size_t i = 0; i < words; ++i) present[i] = 0;
  if (scan_works_) {
    const Errno error = scan_by_ioctl(fd_, start, start + size, present);
    if (error != Errno(ENOTTY) && error != Errno(EINVAL) && error != Errno(ENOSYS) && error != Errno(EPERM))
      return error;
    scan_works_ = false;
    for (std::size_t i = 0; i < words; ++i) present[i] = 0;
  }
  return scan_by_reading(fd_, start, start + size, present);
}

Presence Pagemap::presence(const void* page) {
  std::uint64_t present = 0;
  if (!scan_present(page, kPageSize, &present).ok()) return Presence::unknown;
  return (present & 1) != 0 ? Presence::present : Presence::absent;
}

}  // namespace polder::os
