#include "os/userfaultfd.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>

#include <atomic>
#include <cerrno>
#include <csetjmp>
#include <csignal>
#include <thread>
#include <vector>

#include "base/units.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/thread.h"
#include "os/uffd_abi.h"
#include "unit/os/child.h"
#include "unit/os/uffd_fixture.h"

namespace polder::os {
namespace {

TEST(UffdAbi, AgreesWithTheKernelsHeader) {
  EXPECT_EQ(uffd::kApiVersion, UFFD_API);
  EXPECT_EQ(uffd::kFeatureThreadId, UFFD_FEATURE_THREAD_ID);
  EXPECT_EQ(uffd::kIoctlApi, UFFDIO_API);
  EXPECT_EQ(uffd::kIoctlRegister, UFFDIO_REGISTER);
  EXPECT_EQ(uffd::kIoctlUnregister, UFFDIO_UNREGISTER);
  EXPECT_EQ(uffd::kIoctlWake, UFFDIO_WAKE);
  EXPECT_EQ(uffd::kIoctlCopy, UFFDIO_COPY);
  EXPECT_EQ(uffd::kRegisterMissing, UFFDIO_REGISTER_MODE_MISSING);
  EXPECT_EQ(uffd::kCopyDontWake, UFFDIO_COPY_MODE_DONTWAKE);
  EXPECT_EQ(uffd::kEventPagefault, UFFD_EVENT_PAGEFAULT);
  EXPECT_EQ(uffd::kPagefaultWrite, static_cast<std::uint64_t>(UFFD_PAGEFAULT_FLAG_WRITE));
  EXPECT_EQ(sizeof(uffd::Message), sizeof(uffd_msg));
  EXPECT_EQ(offsetof(uffd::Message, address), offsetof(uffd_msg, arg.pagefault.address));
  EXPECT_EQ(offsetof(uffd::Message, thread), offsetof(uffd_msg, arg.pagefault.feat.ptid));
#if defined(USERFAULTFD_IOC_NEW)
  EXPECT_EQ(uffd::kIoctlNew, static_cast<unsigned long>(USERFAULTFD_IOC_NEW));
#endif
#if defined(UFFDIO_MOVE)
  EXPECT_EQ(uffd::kIoctlMove, UFFDIO_MOVE);
  EXPECT_EQ(uffd::kFeatureMove, UFFD_FEATURE_MOVE);
  EXPECT_EQ(uffd::kMoveAllowSourceHoles, UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES);
#endif
#if defined(UFFDIO_POISON)
  EXPECT_EQ(uffd::kIoctlPoison, UFFDIO_POISON);
  EXPECT_EQ(uffd::kFeaturePoison, UFFD_FEATURE_POISON);
#endif
}

TEST(UffdKernelGate, AllowsMoveOnRepairedKernelsOnly) {
  EXPECT_FALSE(kernel_move_is_known_good(5, 19, 99));
  EXPECT_FALSE(kernel_move_is_known_good(6, 8, 0));
  EXPECT_FALSE(kernel_move_is_known_good(6, 11, 99));
  EXPECT_FALSE(kernel_move_is_known_good(6, 12, 42));
  EXPECT_TRUE(kernel_move_is_known_good(6, 12, 43));
  EXPECT_TRUE(kernel_move_is_known_good(6, 12, 99));
  EXPECT_FALSE(kernel_move_is_known_good(6, 13, 0));
  EXPECT_FALSE(kernel_move_is_known_good(6, 16, 12));
  EXPECT_TRUE(kernel_move_is_known_good(6, 17, 0));
  EXPECT_TRUE(kernel_move_is_known_good(6, 18, 44));
  EXPECT_TRUE(kernel_move_is_known_good(7, 0, 0));
}

TEST(UffdProbe, ReportsWhatIsMissing) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_userfaultfd, ENOSYS)) return test::kNotPossibleHere;
    if (!test::drop_privileges()) return test::kNotPossibleHere;
    if (::access("/dev/userfaultfd", R_OK | W_OK) == 0) return test::kNotPossibleHere;
    const test::ErrnoWitness witness;
    CHILD_EXPECT(Userfaultfd::probe().error == Errno(ENOSYS));
    Userfaultfd uffd;
    CHILD_EXPECT(uffd.open() == Errno(ENOSYS));
    CHILD_EXPECT(witness.untouched());
    return 0;
  }));
}

TEST(UffdProbe, ReportsMissingPrivilege) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to give it up";
  EXPECT_CHILD_OK(test::in_child([] {
    const bool device = ::access("/dev/userfaultfd", F_OK) == 0;
    if (!test::drop_privileges()) return test::kNotPossibleHere;
    if (device && ::access("/dev/userfaultfd", R_OK | W_OK) == 0) return test::kNotPossibleHere;
    const long fd = syscall(SYS_userfaultfd, 0);
    if (fd >= 0) return test::kNotPossibleHere;  // vm.unprivileged_userfaultfd is 1
    CHILD_EXPECT(Userfaultfd::probe().error == Errno(EPERM));
    return 0;
  }));
}

TEST(UffdProbe, UsesTheDeviceWhereTheCallIsRefused) {
  if (::access("/dev/userfaultfd", R_OK | W_OK) != 0) GTEST_SKIP() << "no access to /dev/userfaultfd";
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_userfaultfd, EPERM)) return test::kNotPossibleHere;
    Userfaultfd uffd;
    CHILD_EXPECT(uffd.open().ok());
    return 0;
  }));
}

TEST(UffdProbe, UsesTheCallWhereTheDeviceIsRefused) {
  EXPECT_CHILD_OK(test::in_child([] {
    const long fd = syscall(SYS_userfaultfd, 0);
    if (fd < 0) return test::kNotPossibleHere;
    if (!test::refuse(SYS_openat, EACCES)) return test::kNotPossibleHere;
    Userfaultfd uffd;
    CHILD_EXPECT(uffd.open().ok());
    return 0;
  }));
}

TEST_F(UffdTest, DescriptorDoesNotBlockAndIsNotInherited) {
  EXPECT_NE(fcntl(uffd_.fd(), F_GETFL) & O_NONBLOCK, 0);
  EXPECT_NE(fcntl(uffd_.fd(), F_GETFD) & FD_CLOEXEC, 0);
  Fault fault;
  const test::ErrnoWitness witness;
  EXPECT_EQ(uffd_.read_faults(&fault, 1), 0u);
  EXPECT_TRUE(witness.untouched());
}

TEST_F(UffdTest, ProbeAgreesWithOpen) {
  const Result<UffdFeatures> probed = Userfaultfd::probe();
  ASSERT_TRUE(probed.ok());
  EXPECT_EQ(probed.value.move, uffd_.features().move);
  EXPECT_EQ(probed.value.poison, uffd_.features().poison);
  EXPECT_EQ(probed.value.thread_id, uffd_.features().thread_id);
}

TEST_F(UffdTest, FaultsNameAddressThreadAndKind) {
  fill(other_);
  std::atomic<std::uint32_t> thread{0};
  char seen = 0;
  std::thread toucher([&] {
    thread = thread_id();
    seen = arena_[5 * kPageSize + 77];
    arena_[9 * kPageSize + 1] = 'w';
  });
  Fault fault = await_fault();
  EXPECT_EQ(fault.address, reinterpret_cast<std::uintptr_t>(arena_ + 5 * kPageSize));
  EXPECT_FALSE(fault.write);
  if (uffd_.features().thread_id) {
    EXPECT_EQ(fault.thread, thread.load());
  }
  const test::ErrnoWitness witness;
  EXPECT_EQ(uffd_.copy(arena_ + 5 * kPageSize, other_ + 5 * kPageSize, kPageSize, Wake::yes).done, kPageSize);
  EXPECT_TRUE(witness.untouched());
  fault = await_fault();
  EXPECT_EQ(fault.address, reinterpret_cast<std::uintptr_t>(arena_ + 9 * kPageSize));
  EXPECT_TRUE(fault.write);
  EXPECT_EQ(uffd_.copy(arena_ + 9 * kPageSize, other_, kPageSize, Wake::yes).done, kPageSize);
  toucher.join();
  EXPECT_EQ(seen, mark(5));
  EXPECT_EQ(arena_[9 * kPageSize + 1], 'w');
}

TEST_F(UffdTest, ManyFaultsAreReadInSmallPortions) {
  constexpr std::size_t kThreads = 8;
  fill(other_);
  std::vector<std::thread> touchers;
  std::atomic<unsigned> right{0};
  for (std::size_t i = 0; i < kThreads; ++i) {
    touchers.emplace_back([&, i] {
      if (arena_[i * kPageSize] == mark(i)) right.fetch_add(1);
    });
  }
  std::size_t resolved = 0;
  const int fd = uffd_.fd();
  while (resolved < kThreads) {
    Fault faults[3];
    poll_readable(&fd, 1, 1000);
    const std::size_t count = uffd_.read_faults(faults, 3);
    ASSERT_LE(count, 3u);
    for (std::size_t i = 0; i < count; ++i) {
      char* const page = reinterpret_cast<char*>(faults[i].address);
      EXPECT_EQ(uffd_.copy(page, other_ + (page - arena_), kPageSize, Wake::yes).error, kOk);
    }
    resolved += count;
  }
  for (std::thread& toucher : touchers) toucher.join();
  EXPECT_EQ(right.load(), kThreads);
}

TEST_F(UffdTest, CopyStopsAtAPageThatIsThere) {
  fill(other_);
  ASSERT_EQ(uffd_.copy(arena_ + 10 * kPageSize, other_ + 20 * kPageSize, kPageSize, Wake::no).error, kOk);
  const test::ErrnoWitness witness;
  const Progress progress = uffd_.copy(arena_, other_, kSize, Wake::yes);
  EXPECT_TRUE(witness.untouched());
  EXPECT_EQ(progress.done, 10 * kPageSize);
  EXPECT_EQ(progress.error, Errno(EEXIST));
  for (std::size_t page = 0; page < 10; ++page) EXPECT_EQ(arena_[page * kPageSize], mark(page));
  EXPECT_EQ(arena_[10 * kPageSize], mark(20));
  EXPECT_EQ(present(arena_), 0x7ffu);
}

TEST_F(UffdTest, CopyReportsWhatItCannotDo) {
  char* const unregistered = map_fresh();
  const test::ErrnoWitness witness;
  EXPECT_EQ(uffd_.copy(unregistered, other_, kPageSize, Wake::yes).error, Errno(ENOENT));
  release(unregistered, kSize);
  EXPECT_EQ(uffd_.copy(unregistered, other_, kPageSize, Wake::yes).error, Errno(ENOENT));
  EXPECT_EQ(uffd_.copy(arena_, unregistered, kPageSize, Wake::yes).error, Errno(EFAULT));
  EXPECT_TRUE(witness.untouched());
}

TEST_F(UffdTest, OneWakeServesABatch) {
  fill(other_);
  std::atomic<bool> finished{false};
  std::thread toucher([&] {
    EXPECT_EQ(arena_[3 * kPageSize], mark(3));
    finished = true;
  });
  await_fault();
  ASSERT_EQ(uffd_.copy(arena_, other_, kSize, Wake::no).error, kOk);
  sleep_ms(20);
  EXPECT_FALSE(finished.load());
  uffd_.wake(arena_, kSize);
  toucher.join();
}

TEST_F(UffdTest, CopyThatFindsThePageWakesItsWaiter) {
  fill(other_);
  std::thread toucher([&] { EXPECT_EQ(arena_[0], mark(0)); });
  await_fault();
  ASSERT_EQ(uffd_.copy(arena_, other_, kPageSize, Wake::no).error, kOk);
  EXPECT_EQ(uffd_.copy(arena_, other_, kPageSize, Wake::yes).error, Errno(EEXIST));
  toucher.join();
}

TEST_F(UffdTest, RegistrationIsExclusiveAndEnds) {
  Userfaultfd second;
  ASSERT_EQ(second.open(), kOk);
  const test::ErrnoWitness witness;
  EXPECT_EQ(second.register_missing(arena_, kSize), Errno(EBUSY));
  EXPECT_TRUE(witness.untouched());
  EXPECT_EQ(uffd_.unregister(arena_, kSize), kOk);
  EXPECT_EQ(arena_[0], 0);  // native first touch, nobody is asked
  EXPECT_EQ(second.register_missing(arena_, kSize), kOk);
  EXPECT_EQ(second.unregister(arena_, kSize), kOk);
}

TEST_F(UffdTest, PartsOfARangeCanBeUnregistered) {
  ASSERT_EQ(uffd_.unregister(arena_ + 4 * kPageSize, 4 * kPageSize), kOk);
  EXPECT_EQ(arena_[5 * kPageSize], 0);
  std::thread toucher([&] { EXPECT_EQ(arena_[8 * kPageSize], 0); });
  EXPECT_EQ(await_fault().address, reinterpret_cast<std::uintptr_t>(arena_ + 8 * kPageSize));
  ASSERT_EQ(uffd_.copy(arena_ + 8 * kPageSize, other_, kPageSize, Wake::yes).error, kOk);
  toucher.join();
}

sigjmp_buf bus_error;
volatile std::sig_atomic_t bus_code;

void on_bus_error(int, siginfo_t* info, void*) {
  bus_code = info->si_code;
  siglongjmp(bus_error, 1);
}

TEST_F(UffdTest, PoisonedPagesRaiseSigbus) {
  if (!uffd_.features().poison) {
    EXPECT_EQ(uffd_.poison(arena_, kPageSize), Errno(EOPNOTSUPP));
    GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  }
  fill(other_);
  ASSERT_EQ(uffd_.copy(arena_ + 4 * kPageSize, other_, kPageSize, Wake::no).error, kOk);
  const test::ErrnoWitness witness;
  EXPECT_EQ(uffd_.poison(arena_ + 4 * kPageSize, kPageSize), Errno(EEXIST));
  EXPECT_EQ(uffd_.poison(arena_, 2 * kPageSize), kOk);
  EXPECT_TRUE(witness.untouched());

  struct sigaction action {};
  struct sigaction before {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGBUS, &action, &before), 0);
  volatile bool survived = false;
  if (sigsetjmp(bus_error, 1) == 0) {
    static_cast<void>(*static_cast<volatile char*>(arena_ + kPageSize));
    survived = true;
  }
  sigaction(SIGBUS, &before, nullptr);
  EXPECT_FALSE(survived);
  // System calls fail instead.
  Result<Pipe> pipe = make_pipe();
  ASSERT_TRUE(pipe.ok());
  EXPECT_LT(::write(pipe.value.write_end, arena_, 1), 0);
  close(pipe.value.read_end);
  close(pipe.value.write_end);
  // A discard takes the poison away.
  EXPECT_EQ(discard(arena_, kPageSize), kOk);
  EXPECT_EQ(uffd_.copy(arena_, other_, kPageSize, Wake::no).error, kOk);
  EXPECT_EQ(arena_[0], mark(0));
}

TEST_F(UffdTest, PoisonWakesWhoeverWaits) {
  if (!uffd_.features().poison) GTEST_SKIP() << "this kernel has no UFFDIO_POISON";
  Result<Pipe> pipe = make_pipe();
  ASSERT_TRUE(pipe.ok());
  ssize_t result = 0;
  std::thread toucher([&] { result = ::write(pipe.value.write_end, arena_, 1); });
  await_fault();
  EXPECT_EQ(uffd_.poison(arena_, kPageSize), kOk);
  toucher.join();
  EXPECT_LT(result, 0);
  close(pipe.value.read_end);
  close(pipe.value.write_end);
}

TEST_F(UffdTest, AClosedDescriptorReportsIt) {
  uffd_.close();
  EXPECT_EQ(uffd_.fd(), -1);
  const test::ErrnoWitness witness;
  EXPECT_EQ(uffd_.copy(arena_, other_, kPageSize, Wake::yes).error, Errno(EBADF));
  EXPECT_EQ(uffd_.move(arena_, other_, kPageSize, Wake::yes).error, Errno(EBADF));
  EXPECT_EQ(uffd_.register_missing(arena_, kPageSize), Errno(EBADF));
  Fault fault;
  EXPECT_EQ(uffd_.read_faults(&fault, 1), 0u);
  EXPECT_TRUE(witness.untouched());
  EXPECT_EQ(uffd_.open(), kOk);
}

}  // namespace
}  // namespace polder::os
