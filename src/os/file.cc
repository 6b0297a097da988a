#include "os/file.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/units.h"
#include "os/syscall.h"
#include "os/thread.h"

namespace polder::os {
namespace {

Result<int> as_descriptor(long result) {
  if (result < 0) return failure<int>(static_cast<int>(-result));
  return success(static_cast<int>(result));
}

// A file under a random name that is gone before anybody can open it.
long create_unlinked(int directory_fd) {
  constexpr char kPrefix[] = ".polder-";
  char name[sizeof kPrefix + 32];
  for (int tries = 0; tries < 16; ++tries) {
    unsigned char random[16];
    random_bytes(random, sizeof random);
    std::size_t length = 0;
    for (; kPrefix[length] != '\0'; ++length) name[length] = kPrefix[length];
    for (const unsigned char byte : random) {
      name[length++] = "0123456789abcdef"[byte >> 4];
      name[length++] = "0123456789abcdef"[byte & 15];
    }
    name[length] = '\0';
    const long fd =
        uninterrupted_call(SYS_openat, directory_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd == -EEXIST) continue;
    if (fd >= 0) static_cast<void>(system_call(SYS_unlinkat, directory_fd, name, 0));
    return fd;
  }
  return -EEXIST;
}

// Transfers bypass the page cache from now on; false where the filesystem or its block size does not allow that.
bool make_direct(int fd) {
#if defined(STATX_DIOALIGN)
  struct statx status {};
  if (system_call(SYS_statx, fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0 &&
      (status.stx_dio_offset_align == 0 || status.stx_dio_offset_align > kPageSize)) {
    return false;
  }
#endif
  const long flags = system_call(SYS_fcntl, fd, F_GETFL, 0);
  return flags >= 0 && system_call(SYS_fcntl, fd, F_SETFL, flags | O_DIRECT) == 0;
}

Errno close_range(unsigned first, unsigned last) {
  if (first > last) return kOk;
  return as_errno(system_call(SYS_close_range, first, last, 0));
}

bool contains(const int* sorted, unsigned count, int value) {
  for (unsigned i = 0; i < count; ++i) {
    if (sorted[i] == value) return true;
  }
  return false;
}

// For kernels before 5.9: closes whatever the thread's table lists.
Errno close_listed(const int* keep, unsigned count) {
  struct Entry {  // linux_dirent64
    std::uint64_t inode;
    std::int64_t offset;
    std::uint16_t length;
    std::uint8_t type;
    char name[1];
  };
  const long directory =
      uninterrupted_call(SYS_openat, AT_FDCWD, "/proc/thread-self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
  if (directory < 0) return as_errno(directory);
  alignas(Entry) char buffer[2048];
  long length;
  while ((length = uninterrupted_call(SYS_getdents64, directory, buffer, sizeof buffer)) > 0) {
    for (long position = 0; position < length;) {
      const auto* const entry = reinterpret_cast<const Entry*>(buffer + position);
      position += entry->length;
      int fd = 0;
      const char* digit = entry->name;
      if (*digit < '0' || *digit > '9') continue;
      for (; *digit != '\0'; ++digit) fd = fd * 10 + (*digit - '0');
      if (fd != directory && !contains(keep, count, fd)) static_cast<void>(system_call(SYS_close, fd));
    }
  }
  static_cast<void>(system_call(SYS_close, directory));
  return as_errno(length);
}

// Appends to a path that is large enough.
char* append(char* end, const char* text) {
  while (*text != '\0') *end++ = *text++;
  *end = '\0';
  return end;
}

char* append(char* end, std::uint32_t number) {
  char digits[11];
  char* cursor = digits + sizeof digits;
  *--cursor = '\0';
  do {
    *--cursor = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  return append(end, cursor);
}

// The open flags in a /proc/…/fdinfo file; negated errno.
long flags_of(const char* fdinfo_path) {
  const long info = uninterrupted_call(SYS_openat, AT_FDCWD, fdinfo_path, O_RDONLY | O_CLOEXEC, 0);
  if (info < 0) return info == -ENOENT ? -EBADF : info;
  char text[256];
  const long length = uninterrupted_call(SYS_read, info, text, sizeof text - 1);
  static_cast<void>(system_call(SYS_close, info));
  if (length < 0) return length;
  text[length] = '\0';
  constexpr char kKey[] = "flags:\t";
  for (const char* line = text; *line != '\0';) {
    const char* cursor = line;
    std::size_t matched = 0;
    while (kKey[matched] != '\0' && *cursor == kKey[matched]) ++cursor, ++matched;
    if (kKey[matched] == '\0') {
      long flags = 0;
      while (*cursor >= '0' && *cursor <= '7') flags = flags * 8 + (*cursor++ - '0');
      return flags;
    }
    while (*line != '\0' && *line != '\n') ++line;
    if (*line == '\n') ++line;
  }
  return -ENOENT;
}

Result<int> reopen_through_proc(std::uint32_t thread, int fd) {
  char path[64];
  char* const base = append(append(path, "/proc/self/task/"), thread);
  append(append(base, "/fdinfo/"), static_cast<std::uint32_t>(fd));
  const long flags = flags_of(path);
  if (flags < 0) return as_descriptor(flags);
  append(append(base, "/fd/"), static_cast<std::uint32_t>(fd));
  // Not O_DIRECTORY: nameless files carry that bit as a part of O_TMPFILE.
  constexpr long kKept = O_ACCMODE | O_DIRECT | O_APPEND | O_NONBLOCK | O_PATH;
  return as_descriptor(uninterrupted_call(SYS_openat, AT_FDCWD, path, (flags & kKept) | O_CLOEXEC, 0));
}

// Descriptors 0 to 2 stay taken by handles that refuse every read and write: what anybody prints on this thread cannot
// land in a file of ours.
Errno occupy_standard_descriptors() {
  for (;;) {
    const long handle = system_call(SYS_openat, AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
    if (handle < 0) return as_errno(handle);
    if (handle <= STDERR_FILENO) continue;
    static_cast<void>(system_call(SYS_close, handle));
    return kOk;
  }
}

// The same open file under a number that a program does not mistake for one of its standard streams, even where it has
// closed those.
Result<int> lift(Result<int> descriptor) {
  constexpr int kLowest = 64;
  if (!descriptor.ok() || descriptor.value > STDERR_FILENO) return descriptor;
  long lifted = system_call(SYS_fcntl, descriptor.value, F_DUPFD_CLOEXEC, kLowest);
  if (lifted == -EINVAL) lifted = system_call(SYS_fcntl, descriptor.value, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  static_cast<void>(system_call(SYS_close, descriptor.value));
  return as_descriptor(lifted);
}

// What `make` gives. Where the soft limit of descriptors is in its way it makes once more under the hard one: what is open
// then stays open. For that moment all of the process has the hard limit, and what another thread spawns in it keeps it.
template <typename Make>
auto despite_soft_limit(const Make& make) {
  struct Limit {  // the kernel's rlimit64
    std::uint64_t soft;
    std::uint64_t hard;
  };
  const auto limit = [](const Limit* set, Limit* get) {
    return system_call(SYS_prlimit64, 0, RLIMIT_NOFILE, set, get) == 0;
  };
  const auto first = make();
  Limit usual;
  if (first.error != Errno(EMFILE) || !limit(nullptr, &usual)) return first;
  const Limit raised{usual.hard, usual.hard};
  // Nothing to raise: somebody else has done so, or did when we met it.
  const bool raises = usual.soft < usual.hard && limit(&raised, nullptr);
  const auto second = make();
  Limit now;
  const bool unchanged = raises && limit(nullptr, &now) && now.soft == raised.soft && now.hard == raised.hard;
  if (unchanged) static_cast<void>(limit(&usual, nullptr));
  return second;
}

}  // namespace

Result<int> open_directory(const char* path) {
  return as_descriptor(uninterrupted_call(SYS_openat, AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0));
}

Result<TemporaryFile> open_temporary(int directory_fd) {
  long fd = uninterrupted_call(SYS_openat, directory_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  // EISDIR and ENOENT come from kernels that do not know the flag.
  if (fd == -EOPNOTSUPP || fd == -EISDIR || fd == -ENOENT || fd == -EINVAL) fd = create_unlinked(directory_fd);
  if (fd < 0) return failure<TemporaryFile>(static_cast<int>(-fd));
  TemporaryFile file;
  file.fd = static_cast<int>(fd);
  static_cast<void>(system_call(SYS_fchmod, file.fd, 0600));  // whatever the umask took
  file.direct = make_direct(file.fd);
  return success(file);
}

Result<std::uint64_t> free_space(int fd) {
  struct statfs status {};
  const long result = uninterrupted_call(SYS_fstatfs, fd, &status);
  if (result < 0) return failure<std::uint64_t>(static_cast<int>(-result));
  const auto unit = static_cast<std::uint64_t>(status.f_frsize != 0 ? status.f_frsize : status.f_bsize);
  return success(static_cast<std::uint64_t>(status.f_bavail) * unit);
}

Errno allocate_blocks(int fd, std::uint64_t offset, std::uint64_t length) {
  return as_errno(uninterrupted_call(SYS_fallocate, fd, 0, offset, length));
}

Errno punch_hole(int fd, std::uint64_t offset, std::uint64_t length) {
  constexpr int kMode = 0x03;  // FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
  return as_errno(uninterrupted_call(SYS_fallocate, fd, kMode, offset, length));
}

std::size_t read_start(const char* path, char* buffer, std::size_t size) {
  const long fd = uninterrupted_call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return 0;
  const long length = uninterrupted_call(SYS_read, fd, buffer, size);
  close(static_cast<int>(fd));
  return length <= 0 ? 0 : static_cast<std::size_t>(length);
}

Result<int> open_existing(const char* path) {
  return as_descriptor(uninterrupted_call(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0));
}

void close(int fd) {
  static_cast<void>(system_call(SYS_close, fd));  // EINTR: closed all the same
}

Result<Pipe> make_pipe() {
  return despite_soft_limit([] {
    int ends[2];
    const long result = system_call(SYS_pipe2, ends, O_CLOEXEC);
    if (result < 0) return failure<Pipe>(static_cast<int>(-result));
    return success(Pipe{ends[0], ends[1]});
  });
}

bool peer_closed(int read_end) {
  pollfd entry{read_end, 0, 0};
  timespec now{};
  return uninterrupted_call(SYS_ppoll, &entry, 1, &now, nullptr, 0) == 1 && (entry.revents & POLLHUP) != 0;
}

Result<int> make_event() { return as_descriptor(system_call(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK)); }

void signal_event(int fd) {
  const std::uint64_t one = 1;
  static_cast<void>(uninterrupted_call(SYS_write, fd, &one, sizeof one));  // EAGAIN: it is more than signalled
}

void drain_event(int fd) {
  std::uint64_t count;
  static_cast<void>(uninterrupted_call(SYS_read, fd, &count, sizeof count));
}

unsigned poll_readable(const int* fds, unsigned count, int timeout_ms) {
  constexpr unsigned kMost = 8;
  POLDER_CHECK(count <= kMost, "poll_readable: count", count);
  pollfd entries[kMost];
  for (unsigned i = 0; i < count; ++i) entries[i] = {fds[i], POLLIN, 0};
  timespec timeout{timeout_ms / 1000, static_cast<long>(timeout_ms % 1000) * 1000000};
  if (system_call(SYS_ppoll, entries, count, timeout_ms < 0 ? nullptr : &timeout, nullptr, 0) <= 0) return 0;
  unsigned readable = 0;
  for (unsigned i = 0; i < count; ++i) {
    // Errors and hang-ups count: the read that follows meets them.
    if (entries[i].revents != 0) readable |= 1U << i;
  }
  return readable;
}

Errno take_private_descriptor_table(const int* keep, unsigned count) {
  constexpr unsigned kUnshare = 2;  // CLOSE_RANGE_UNSHARE
  for (unsigned i = 0; i < count; ++i) {
    POLDER_CHECK(keep[i] >= 0 && (i == 0 || keep[i - 1] < keep[i]), "descriptors to keep are not sorted", i, keep[i]);
  }
  // An empty range: the new table starts as a full copy, nothing is closed in the old one.
  long result = system_call(SYS_close_range, ~0U, ~0U, kUnshare);
  if (result < 0) result = system_call(SYS_unshare, 0x400 /* CLONE_FILES */);
  if (result < 0) return as_errno(result);

  unsigned next = 0;
  Errno error = kOk;
  for (unsigned i = 0; i < count && error.ok(); ++i) {
    if (keep[i] != 0) error = close_range(next, static_cast<unsigned>(keep[i]) - 1);
    next = static_cast<unsigned>(keep[i]) + 1;
  }
  if (error.ok()) error = close_range(next, ~0U);
  if (!error.ok()) error = close_listed(keep, count);
  return error.ok() ? occupy_standard_descriptors() : error;
}

Result<int> copy_descriptor_from_thread(std::uint32_t thread, int fd) {
  return despite_soft_limit([&] {
    constexpr unsigned kPidfdThread = O_EXCL;  // since 6.9
    const long pidfd = system_call(SYS_pidfd_open, thread, kPidfdThread);
    if (pidfd >= 0) {
      const long copy = system_call(SYS_pidfd_getfd, pidfd, fd, 0);
      static_cast<void>(system_call(SYS_close, pidfd));
      if (copy >= 0 || copy == -EBADF || copy == -EMFILE) return lift(as_descriptor(copy));
    }
    return lift(reopen_through_proc(thread, fd));
  });
}

}  // namespace polder::os
