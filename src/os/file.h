// Files, descriptors and descriptor tables. No call changes the thread's errno.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/errno.h"

namespace polder::os {

// Opens a directory as a handle (O_DIRECTORY, close-on-exec).
Result<int> open_directory(const char* path);

struct TemporaryFile {
  int fd = -1;
  bool direct = false;  // O_DIRECT was accepted
};

// A nameless file of mode 0600 in the directory (O_TMPFILE; where the filesystem lacks it, created under a random name
// and unlinked at once), O_DIRECT where the filesystem accepts it. ENOSPC, EROFS, EACCES, ENOENT, ENOTDIR as met.
Result<TemporaryFile> open_temporary(int directory_fd);

// Bytes free to this process on the filesystem that holds `fd`.
Result<std::uint64_t> free_space(int fd);

// Allocates blocks for the range and extends the file over it (fallocate). ENOSPC, EDQUOT; EOPNOTSUPP where the filesystem
// cannot.
Errno allocate_blocks(int fd, std::uint64_t offset, std::uint64_t length);

// Allocates nothing, drops the range's blocks (FALLOC_FL_PUNCH_HOLE). EOPNOTSUPP where the filesystem cannot.
Errno punch_hole(int fd, std::uint64_t offset, std::uint64_t length);

// The first bytes of a small file, such as those of /proc; how many, 0 when it cannot be read.
std::size_t read_start(const char* path, char* buffer, std::size_t size);

// A shared-memory file mapped by a supervisor: opens an existing file read-write, close-on-exec.
Result<int> open_existing(const char* path);

void close(int fd);

// One direction of a pipe that tells when the last holder of the other end is gone. EMFILE: at the hard limit of
// descriptors; the soft one does not count here.
struct Pipe {
  int read_end = -1;
  int write_end = -1;
};
Result<Pipe> make_pipe();
// True when no process holds the write end any more.
bool peer_closed(int read_end);

// A counter that wakes a poll: signal adds one, drain resets. Close-on-exec, non-blocking.
Result<int> make_event();
void signal_event(int fd);
void drain_event(int fd);

// Waits until one of the descriptors is readable, at most `timeout_ms` (negative: for ever). Bit i of the result tells
// that fds[i] is readable. At most 8 descriptors; EINTR counts as a timeout.
unsigned poll_readable(const int* fds, unsigned count, int timeout_ms);

// Gives the calling THREAD a descriptor table of its own in which only `keep` (sorted ascending) is open; of 0 to 2, what
// is not kept is taken by handles that refuse every read and write. The rest of the process neither notices nor can
// close what this thread opens afterwards.
Errno take_private_descriptor_table(const int* keep, unsigned count);

// Opens in the calling thread's table what thread `thread` of this process has open as `fd`: pidfd_getfd where the
// kernel has PIDFD_THREAD, else through /proc/self/task. Close-on-exec, and never one of 0 to 2. EBADF: not open there.
// EMFILE as for make_pipe().
Result<int> copy_descriptor_from_thread(std::uint32_t thread, int fd);

}  // namespace polder::os
