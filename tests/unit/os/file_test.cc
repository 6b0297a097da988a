#include "os/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/units.h"
#include "os/mapping.h"
#include "os/thread.h"
#include "unit/os/child.h"

namespace polder::os {
namespace {

// A directory that ends with its scope.
struct Directory {
  Directory() {
    if (mkdtemp(path) == nullptr) std::abort();
  }
  ~Directory() { std::filesystem::remove_all(path); }

  char path[32] = "/var/tmp/polder-test-XXXXXX";
};

std::set<int> open_descriptors(const char* directory = "/proc/thread-self/fd") {
  std::set<int> found;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    found.insert(std::stoi(entry.path().filename().string()));
  }
  // The iterator's own is closed by now.
  std::erase_if(found, [](int fd) { return fcntl(fd, F_GETFD) < 0; });
  return found;
}

TEST(OpenDirectory, OpensDirectoriesOnly) {
  const test::ErrnoWitness witness;
  const Result<int> directory = open_directory("/var/tmp");
  ASSERT_TRUE(directory.ok());
  EXPECT_NE(fcntl(directory.value, F_GETFD) & FD_CLOEXEC, 0);
  close(directory.value);
  EXPECT_EQ(open_directory("/nonexistent").error, Errno(ENOENT));
  EXPECT_EQ(open_directory("/proc/self/maps").error, Errno(ENOTDIR));
  EXPECT_TRUE(witness.untouched());
}

void check_temporary(int directory) {
  const test::ErrnoWitness witness;
  const Result<TemporaryFile> file = open_temporary(directory);
  ASSERT_EQ(file.error, kOk);
  EXPECT_TRUE(witness.untouched());
  struct stat status {};
  ASSERT_EQ(fstat(file.value.fd, &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  EXPECT_EQ(status.st_nlink, 0u);
  EXPECT_NE(fcntl(file.value.fd, F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ((fcntl(file.value.fd, F_GETFL) & O_DIRECT) != 0, file.value.direct);
  const Result<char*> page = map_private(kPageSize);
  ASSERT_TRUE(page.ok());
  page.value[0] = 'x';
  EXPECT_EQ(pwrite(file.value.fd, page.value, kPageSize, kPageSize), static_cast<ssize_t>(kPageSize));
  EXPECT_EQ(pread(file.value.fd, page.value, kPageSize, kPageSize), static_cast<ssize_t>(kPageSize));
  EXPECT_EQ(page.value[0], 'x');
  release(page.value, kPageSize);
  close(file.value.fd);
}

TEST(OpenTemporary, IsNamelessAndPrivate) {
  const Directory directory;
  const Result<int> handle = open_directory(directory.path);
  ASSERT_TRUE(handle.ok());
  const mode_t before = umask(0);
  check_temporary(handle.value);
  umask(0777);
  check_temporary(handle.value);
  umask(before);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path));
  close(handle.value);
}

TEST(OpenTemporary, UnlinksAtOnceWhereTheFilesystemCannot) {
  const Directory directory;
  EXPECT_CHILD_OK(test::in_child([&] {
    const Result<int> handle = open_directory(directory.path);
    CHILD_EXPECT(handle.ok());
    if (!test::refuse(SYS_openat, EOPNOTSUPP, 2, O_TMPFILE)) return test::kNotPossibleHere;
    check_temporary(handle.value);
    return testing::Test::HasFailure() ? 1 : 0;
  }));
  EXPECT_TRUE(std::filesystem::is_empty(directory.path));
}

TEST(OpenTemporary, SaysWhyNot) {
  const Directory directory;
  EXPECT_EQ(open_temporary(1000000).error, Errno(EBADF));
  EXPECT_CHILD_OK(test::in_child([&] {
    if (geteuid() != 0 || !test::drop_privileges()) return test::kNotPossibleHere;
    const Result<int> handle = open_directory("/etc");
    CHILD_EXPECT(handle.ok());
    CHILD_EXPECT(open_temporary(handle.value).error == Errno(EACCES));
    CHILD_EXPECT(!open_directory(directory.path).ok() ||
                 open_temporary(open_directory(directory.path).value).error == Errno(EACCES));
    return 0;
  }));
}

TEST(OpenTemporary, ReportsAReadOnlyFilesystem) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::mount_private_tmpfs("/mnt", "size=64k", MS_RDONLY)) return test::kNotPossibleHere;
    const Result<int> handle = open_directory("/mnt");
    CHILD_EXPECT(handle.ok());
    CHILD_EXPECT(open_temporary(handle.value).error == Errno(EROFS));
    return 0;
  }));
}

TEST(OpenTemporary, ReportsAFullFilesystem) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::mount_private_tmpfs("/mnt", "size=64k,nr_inodes=1")) return test::kNotPossibleHere;
    const Result<int> handle = open_directory("/mnt");
    CHILD_EXPECT(handle.ok());
    CHILD_EXPECT(open_temporary(handle.value).error == Errno(ENOSPC));
    return 0;
  }));
}

TEST(OpenTemporary, WorksOnTmpfs) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::mount_private_tmpfs("/mnt", "size=64k")) return test::kNotPossibleHere;
    const Result<int> handle = open_directory("/mnt");
    CHILD_EXPECT(handle.ok());
    check_temporary(handle.value);
    const Result<std::uint64_t> space = free_space(handle.value);
    CHILD_EXPECT(space.ok() && space.value == 64 << 10);
    return testing::Test::HasFailure() ? 1 : 0;
  }));
}

TEST(OpenExisting, ReadsAndWrites) {
  const Directory directory;
  const std::string path = std::string(directory.path) + "/file";
  const test::ErrnoWitness witness;
  EXPECT_EQ(open_existing(path.c_str()).error, Errno(ENOENT));
  EXPECT_TRUE(witness.untouched());
  const int made = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  ASSERT_GE(made, 0);
  close(made);
  const Result<int> file = open_existing(path.c_str());
  ASSERT_TRUE(file.ok());
  EXPECT_EQ(fcntl(file.value, F_GETFL) & O_ACCMODE, O_RDWR);
  EXPECT_NE(fcntl(file.value, F_GETFD) & FD_CLOEXEC, 0);
  close(file.value);
  EXPECT_EQ(open_existing(directory.path).error, Errno(EISDIR));
}

TEST(FreeSpace, IsWhatStatvfsSays) {
  const Result<int> directory = open_directory("/var/tmp");
  ASSERT_TRUE(directory.ok());
  struct statvfs status {};
  ASSERT_EQ(statvfs("/var/tmp", &status), 0);
  const Result<std::uint64_t> space = free_space(directory.value);
  ASSERT_TRUE(space.ok());
  const std::uint64_t expected = static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
  const std::uint64_t difference = space.value > expected ? space.value - expected : expected - space.value;
  EXPECT_LT(difference, std::uint64_t{4} << 30);  // others write too
  close(directory.value);
  const test::ErrnoWitness witness;
  EXPECT_EQ(free_space(directory.value).error, Errno(EBADF));
  EXPECT_TRUE(witness.untouched());
}

TEST(PunchHole, DropsBlocksAndKeepsTheSize) {
  const Result<int> directory = open_directory("/var/tmp");
  ASSERT_TRUE(directory.ok());
  const Result<TemporaryFile> file = open_temporary(directory.value);
  ASSERT_TRUE(file.ok());
  constexpr std::size_t kSize = 64 * kPageSize;
  const Result<char*> memory = map_private(kSize);
  ASSERT_TRUE(memory.ok());
  std::memset(memory.value, 'h', kSize);
  ASSERT_EQ(pwrite(file.value.fd, memory.value, kSize, 0), static_cast<ssize_t>(kSize));
  struct stat full {};
  ASSERT_EQ(fstat(file.value.fd, &full), 0);
  const test::ErrnoWitness witness;
  const Errno error = punch_hole(file.value.fd, 16 * kPageSize, 32 * kPageSize);
  EXPECT_TRUE(witness.untouched());
  if (error == Errno(EOPNOTSUPP)) GTEST_SKIP() << "/var/tmp cannot punch holes";
  ASSERT_EQ(error, kOk);
  struct stat after {};
  ASSERT_EQ(fstat(file.value.fd, &after), 0);
  EXPECT_EQ(after.st_size, full.st_size);
  EXPECT_LT(after.st_blocks, full.st_blocks);
  ASSERT_EQ(pread(file.value.fd, memory.value, kSize, 0), static_cast<ssize_t>(kSize));
  EXPECT_EQ(memory.value[15 * kPageSize], 'h');
  EXPECT_EQ(memory.value[16 * kPageSize], 0);
  EXPECT_EQ(memory.value[48 * kPageSize - 1], 0);
  EXPECT_EQ(memory.value[48 * kPageSize], 'h');
  close(file.value.fd);
  close(directory.value);
  EXPECT_EQ(punch_hole(file.value.fd, 0, kPageSize), Errno(EBADF));
  release(memory.value, kSize);
}

TEST(Pipe, TellsWhenThePeerIsGone) {
  const Result<Pipe> pipe = make_pipe();
  ASSERT_TRUE(pipe.ok());
  const test::ErrnoWitness witness;
  EXPECT_FALSE(peer_closed(pipe.value.read_end));
  const int second = dup(pipe.value.write_end);
  ASSERT_EQ(::write(second, "x", 1), 1);
  close(pipe.value.write_end);
  EXPECT_FALSE(peer_closed(pipe.value.read_end));
  close(second);
  EXPECT_TRUE(peer_closed(pipe.value.read_end));
  EXPECT_TRUE(witness.untouched());
  close(pipe.value.read_end);
}

TEST(Event, PollsBetweenSignalAndDrain) {
  const Result<int> event = make_event();
  ASSERT_TRUE(event.ok());
  const int fd = event.value;
  EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  const test::ErrnoWitness witness;
  EXPECT_EQ(poll_readable(&fd, 1, 0), 0u);
  drain_event(fd);  // nothing there: does not block
  signal_event(fd);
  signal_event(fd);
  EXPECT_EQ(poll_readable(&fd, 1, -1), 1u);
  drain_event(fd);
  EXPECT_EQ(poll_readable(&fd, 1, 0), 0u);
  EXPECT_TRUE(witness.untouched());
  close(fd);
}

TEST(PollReadable, NamesWhoIsReady) {
  int fds[8];
  for (int& fd : fds) fd = make_event().value;
  signal_event(fds[1]);
  signal_event(fds[7]);
  EXPECT_EQ(poll_readable(fds, 8, 1000), 0x82u);
  EXPECT_EQ(poll_readable(fds, 1, 0), 0u);
  const std::uint64_t before = monotonic_ns();
  EXPECT_EQ(poll_readable(fds, 1, 20), 0u);
  EXPECT_GE(monotonic_ns() - before, 19000000u);
  // A closed descriptor is reported, not waited for.
  close(fds[0]);
  EXPECT_EQ(poll_readable(fds, 1, -1), 1u);
  for (int i = 1; i < 8; ++i) close(fds[i]);
}

// A service thread with a descriptor table of its own, as the pager's.
struct Recluse {
  Errno start(std::vector<int> kept) {
    keep = std::move(kept);
    const Errno error =
        start_service_thread([](void* self) { static_cast<Recluse*>(self)->run(); }, this, "recluse", 256 << 10);
    if (error.ok()) wait_for(1);
    return error;
  }

  void wait_for(int wanted) const {
    while (step.load() < wanted) sleep_ms(1);
  }

  void run() {
    thread = thread_id();
    errno = 0;
    taken = take_private_descriptor_table(keep.data(), static_cast<unsigned>(keep.size()));
    errno_after = errno;
    // Not more than asked for is open now, but for the blind handles under 0 to 2.
    for (int fd = 0; fd < 256; ++fd) {
      if (fcntl(fd, F_GETFD) >= 0) left_open.push_back(fd);
    }
    print_refused = ::write(1, "", 0) < 0 && errno == EBADF && ::read(0, nullptr, 0) < 0;
    const Result<int> directory = open_directory("/var/tmp");
    const Result<TemporaryFile> temporary = open_temporary(directory.value);
    close(directory.value);
    file = temporary.value;
    step = 1;
    wait_for(2);
    // The process has closed everything it sees by now.
    alignas(4096) static char page[kPageSize];
    std::memset(page, 'r', sizeof page);
    wrote = pwrite(file.fd, page, sizeof page, 0);
    step = 3;
    wait_for(4);
    close(file.fd);
    step = 5;
  }

  std::vector<int> keep;
  std::vector<int> left_open;
  std::uint32_t thread = 0;
  int errno_after = 0;
  bool print_refused = false;
  Errno taken;
  TemporaryFile file;
  ssize_t wrote = 0;
  std::atomic<int> step{0};
};

int check_private_table() {
  const Result<Pipe> pipe = make_pipe();
  const Result<int> event = make_event();
  CHILD_EXPECT(pipe.ok() && event.ok());
  const int high = fcntl(event.value, F_DUPFD_CLOEXEC, 200);
  const std::set<int> before = open_descriptors();

  Recluse recluse;
  CHILD_EXPECT(recluse.start({2, event.value, high}).ok());
  CHILD_EXPECT(recluse.taken.ok());
  CHILD_EXPECT(recluse.errno_after == 0 || recluse.errno_after == EBADF);  // EBADF: the test's own fcntl calls
  CHILD_EXPECT((recluse.left_open == std::vector<int>{0, 1, 2, event.value, high}));
  CHILD_EXPECT(recluse.print_refused);
  CHILD_EXPECT(recluse.file.fd >= 0);

  // The process kept all its descriptors, and does not see the thread's.
  CHILD_EXPECT(open_descriptors() == before);
  CHILD_EXPECT(fcntl(pipe.value.read_end, F_GETFD) >= 0);

  // A pipe ends when the process closes its end: the thread holds none.
  close(pipe.value.write_end);
  CHILD_EXPECT(peer_closed(pipe.value.read_end));
  char byte;
  CHILD_EXPECT(::read(pipe.value.read_end, &byte, 1) == 0);

  // The process closes what it likes.
  syscall(SYS_close_range, 3, ~0U, 0);
  recluse.step = 2;
  recluse.wait_for(3);
  CHILD_EXPECT(recluse.wrote == static_cast<ssize_t>(kPageSize));
  recluse.step = 4;
  recluse.wait_for(5);
  return 0;
}

TEST(DescriptorLimit, TheSoftOneStopsOnlyTheProgram) {
  EXPECT_CHILD_OK(test::in_child([] {
    const int one = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    rlimit limit;
    CHILD_EXPECT(one >= 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = static_cast<rlim_t>(one) + 10;
    if (limit.rlim_max < limit.rlim_cur + 10 || setrlimit(RLIMIT_NOFILE, &limit) != 0) return test::kNotPossibleHere;
    int last = one;
    for (int fd = dup(one); fd >= 0; fd = dup(one)) last = fd;
    CHILD_EXPECT(errno == EMFILE);
    const Result<Pipe> pipe = make_pipe();
    CHILD_EXPECT(pipe.ok() && pipe.value.read_end >= static_cast<int>(limit.rlim_cur));
    CHILD_EXPECT(!peer_closed(pipe.value.read_end));
    close(pipe.value.write_end);
    CHILD_EXPECT(peer_closed(pipe.value.read_end));
    CHILD_EXPECT(copy_descriptor_from_thread(thread_id(), last).ok());
    rlimit after;
    CHILD_EXPECT(getrlimit(RLIMIT_NOFILE, &after) == 0);
    CHILD_EXPECT(after.rlim_cur == limit.rlim_cur && after.rlim_max == limit.rlim_max);
    CHILD_EXPECT(dup(one) < 0);
    // The hard one stops us as well.
    limit.rlim_max = limit.rlim_cur;
    CHILD_EXPECT(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHILD_EXPECT(make_pipe().error == Errno(EMFILE));
    return 0;
  }));
}

TEST(PrivateDescriptorTable, IsOutOfTheProcessesReach) { EXPECT_CHILD_OK(test::in_child(check_private_table)); }

TEST(PrivateDescriptorTable, NeedsNoCloseRange) {
  // The test's own close_range is refused too, so it closes nothing: the thread's view is what counts here.
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_close_range, ENOSYS)) return test::kNotPossibleHere;
    return check_private_table();
  }));
}

TEST(PrivateDescriptorTable, KeepsNothingWhenAskedTo) {
  EXPECT_CHILD_OK(test::in_child([] {
    Recluse recluse;
    CHILD_EXPECT(recluse.start({}).ok());
    CHILD_EXPECT(recluse.taken.ok() && (recluse.left_open == std::vector<int>{0, 1, 2}) && recluse.print_refused);
    CHILD_EXPECT(recluse.file.fd > 2);
    CHILD_EXPECT(fcntl(0, F_GETFD) >= 0);
    recluse.step = 4;
    return 0;
  }));
}

TEST(PrivateDescriptorTable, KeepsTheProcessesFileLocks) {
  // Closing any descriptor of a file drops the process's POSIX locks on it. The thread's closing must not.
  const Directory directory;
  const std::string path = std::string(directory.path) + "/locked";
  EXPECT_CHILD_OK(test::in_child([&] {
    const int fd = ::open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    struct flock lock {};
    lock.l_type = F_WRLCK;
    CHILD_EXPECT(fcntl(fd, F_SETLK, &lock) == 0);
    Recluse recluse;
    CHILD_EXPECT(recluse.start({}).ok());
    CHILD_EXPECT(recluse.taken.ok());
    const int seen_by_others = test::in_child([&] {
      struct flock probe {};
      probe.l_type = F_WRLCK;
      return fcntl(fd, F_GETLK, &probe) == 0 && probe.l_type == F_WRLCK ? 0 : 1;
    });
    recluse.step = 4;
    return seen_by_others;
  }));
}

int check_copied_descriptor() {
  Recluse recluse;
  CHILD_EXPECT(recluse.start({}).ok());
  recluse.step = 2;
  recluse.wait_for(3);
  const test::ErrnoWitness witness;
  const Result<int> copy = copy_descriptor_from_thread(recluse.thread, recluse.file.fd);
  CHILD_EXPECT(witness.untouched());
  CHILD_EXPECT(copy.ok());
  CHILD_EXPECT((fcntl(copy.value, F_GETFD) & FD_CLOEXEC) != 0);
  CHILD_EXPECT((fcntl(copy.value, F_GETFL) & O_ACCMODE) == O_RDWR);
  CHILD_EXPECT(((fcntl(copy.value, F_GETFL) & O_DIRECT) != 0) == recluse.file.direct);
  alignas(4096) static char page[kPageSize];
  CHILD_EXPECT(pread(copy.value, page, sizeof page, 0) == static_cast<ssize_t>(kPageSize));
  CHILD_EXPECT(page[0] == 'r' && page[kPageSize - 1] == 'r');
  page[0] = 'w';
  CHILD_EXPECT(pwrite(copy.value, page, sizeof page, 0) == static_cast<ssize_t>(kPageSize));

  const Result<int> missing = copy_descriptor_from_thread(recluse.thread, 999);
  CHILD_EXPECT(missing.error == Errno(EBADF));
  CHILD_EXPECT(!copy_descriptor_from_thread(0x3fffffff, 0).ok());
  recluse.step = 4;
  recluse.wait_for(5);
  // Our copy outlives the thread's.
  CHILD_EXPECT(pread(copy.value, page, sizeof page, 0) == static_cast<ssize_t>(kPageSize));
  CHILD_EXPECT(page[0] == 'w');
  close(copy.value);
  return 0;
}

TEST(CopyDescriptor, ReachesAThreadsPrivateTable) { EXPECT_CHILD_OK(test::in_child(check_copied_descriptor)); }

TEST(CopyDescriptor, WorksForNobody) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::drop_privileges()) return test::kNotPossibleHere;
    return check_copied_descriptor();
  }));
}

TEST(CopyDescriptor, GoesThroughProcWhereItMust) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_pidfd_open, EINVAL)) return test::kNotPossibleHere;
    return check_copied_descriptor();
  }));
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_pidfd_getfd, EPERM)) return test::kNotPossibleHere;
    return check_copied_descriptor();
  }));
}

TEST(CopyDescriptor, NeverBecomesAStandardStream) {
  EXPECT_CHILD_OK(test::in_child([] {
    Recluse recluse;
    CHILD_EXPECT(recluse.start({}).ok());
    recluse.step = 2;
    recluse.wait_for(3);
    for (int fd = 0; fd < 3; ++fd) ::close(fd);
    const Result<int> copy = copy_descriptor_from_thread(recluse.thread, recluse.file.fd);
    CHILD_EXPECT(copy.ok() && copy.value > 2);
    CHILD_EXPECT((fcntl(copy.value, F_GETFD) & FD_CLOEXEC) != 0);
    recluse.step = 4;
    return 0;
  }));
}

TEST(CopyDescriptor, WorksFromAForkedChild) {
  EXPECT_CHILD_OK(test::in_child([] {
    Recluse recluse;
    CHILD_EXPECT(recluse.start({}).ok());
    recluse.step = 2;
    recluse.wait_for(3);
    // As a fork hook does it: the forking thread takes the copy before, the child inherits it.
    const Result<int> copy = copy_descriptor_from_thread(recluse.thread, recluse.file.fd);
    CHILD_EXPECT(copy.ok());
    const int status = test::in_child([&] {
      alignas(4096) static char page[kPageSize];
      CHILD_EXPECT(pread(copy.value, page, sizeof page, 0) == static_cast<ssize_t>(kPageSize));
      CHILD_EXPECT(page[0] == 'r');
      return 0;
    });
    recluse.step = 4;
    return status;
  }));
}

}  // namespace
}  // namespace polder::os
