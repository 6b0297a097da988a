#include "os/io_engine.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "base/units.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/thread.h"
#include "unit/os/child.h"
#include "unit/os/io_engine_fixture.h"

namespace polder::os {
namespace {

std::size_t thread_count() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) ++count;
  return count;
}

INSTANTIATE_TEST_SUITE_P(Backends, IoEngineTest, on_both_backends(), backend_name);

TEST_P(IoEngineTest, SaysWhatItIs) {
  EXPECT_STREQ(engine_->name(), GetParam() == IoBackend::uring ? "io_uring" : "workers");
  EXPECT_EQ(engine_->outstanding(), 0u);
  IoCompletion completion;
  const test::ErrnoWitness witness;
  engine_->submit();
  EXPECT_EQ(engine_->reap(&completion, 1), 0u);
  const std::uint64_t before = monotonic_ns();
  engine_->wait(15);
  EXPECT_GE(monotonic_ns() - before, 14000000u);
  EXPECT_TRUE(witness.untouched());
}

TEST_P(IoEngineTest, WritesComeBack) {
  constexpr std::size_t kCount = kDepth;
  constexpr std::size_t kPiece = 8 * kPageSize;
  Buffer out(kCount * kPiece);
  Buffer in(kCount * kPiece);
  for (std::size_t i = 0; i < out.size; ++i) out.data[i] = static_cast<char>(i * 7 + i / 4096);
  iovec vectors[kCount];
  for (std::size_t i = 0; i < kCount; ++i) {
    vectors[i] = {out.data + i * kPiece, kPiece};
    engine_->write(file_.fd, &vectors[i], 1, i * kPiece, 100 + i);
  }
  EXPECT_EQ(engine_->outstanding(), kCount);
  std::vector<bool> seen(kCount);
  for (const IoCompletion& completion : finish()) {
    ASSERT_EQ(completion.error, kOk);
    ASSERT_GE(completion.tag, 100u);
    ASSERT_LT(completion.tag, 100 + kCount);
    EXPECT_FALSE(seen[completion.tag - 100]);
    seen[completion.tag - 100] = true;
  }
  for (std::size_t i = 0; i < kCount; ++i) {
    vectors[i].iov_base = in.data + i * kPiece;
    engine_->read(file_.fd, &vectors[i], 1, i * kPiece, i);
  }
  EXPECT_EQ(finish().size(), kCount);
  EXPECT_EQ(std::memcmp(in.data, out.data, out.size), 0);
}

TEST_P(IoEngineTest, ScattersOverManyVectors) {
  constexpr std::size_t kVectors = 63;
  Buffer out(kVectors * kPageSize);
  Buffer in(2 * kVectors * kPageSize);
  for (std::size_t i = 0; i < out.size; ++i) out.data[i] = static_cast<char>(i * 31 + i / 4096);
  iovec source[kVectors];
  iovec target[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) {
    source[i] = {out.data + i * kPageSize, kPageSize};
    target[i] = {in.data + (kVectors - 1 - i) * 2 * kPageSize, kPageSize};
  }
  engine_->write(file_.fd, source, kVectors, 5 * kPageSize, 1);
  ASSERT_EQ(finish_one(), kOk);
  engine_->read(file_.fd, target, kVectors, 5 * kPageSize, 2);
  ASSERT_EQ(finish_one(), kOk);
  for (std::size_t i = 0; i < kVectors; ++i) {
    ASSERT_EQ(std::memcmp(target[i].iov_base, source[i].iov_base, kPageSize), 0) << i;
  }
}

// Random pieces in flight together, checked against a copy in memory.
TEST_P(IoEngineTest, AgreesWithAModel) {
  constexpr std::size_t kFilePages = 512;
  constexpr std::size_t kMostPages = 8;
  std::mt19937 random(20240607);
  std::vector<char> model(kFilePages * kPageSize);
  Buffer buffers(kDepth * kMostPages * kPageSize);
  struct Flight {
    bool busy = false;
    bool write = false;
    std::size_t first = 0;
    std::size_t pages = 0;
    std::vector<iovec> vectors;
  };
  std::vector<Flight> flights(kDepth);
  ASSERT_EQ(ftruncate(file_.fd, static_cast<off_t>(model.size())), 0);

  const auto overlaps = [&](std::size_t first, std::size_t pages, bool write) {
    for (const Flight& flight : flights) {
      if (flight.busy && (write || flight.write) && first < flight.first + flight.pages &&
          flight.first < first + pages) {
        return true;
      }
    }
    return false;
  };

  std::size_t started = 0;
  std::size_t ended = 0;
  while (ended < 3000) {
    for (std::size_t slot = 0; slot < kDepth && started < 3000; ++slot) {
      Flight& flight = flights[slot];
      const std::size_t pages = 1 + random() % kMostPages;
      const std::size_t first = random() % (kFilePages - pages + 1);
      const bool write = random() % 2 == 0;
      if (flight.busy || overlaps(first, pages, write)) continue;
      char* const buffer = buffers.data + slot * kMostPages * kPageSize;
      flight = {true, write, first, pages, {}};
      for (std::size_t page = 0; page < pages; ++page) {
        flight.vectors.push_back({buffer + page * kPageSize, kPageSize});
      }
      const auto count = static_cast<unsigned>(pages);
      if (write) {
        std::memset(buffer, static_cast<int>(random() % 256), pages * kPageSize);
        std::memcpy(buffer, &started, sizeof started);
        std::memcpy(model.data() + first * kPageSize, buffer, pages * kPageSize);
        engine_->write(file_.fd, flight.vectors.data(), count, first * kPageSize, slot);
      } else {
        std::memset(buffer, 0x55, pages * kPageSize);
        engine_->read(file_.fd, flight.vectors.data(), count, first * kPageSize, slot);
      }
      ++started;
    }
    engine_->submit();
    engine_->wait(10000);
    IoCompletion completions[7];
    const unsigned count = engine_->reap(completions, 7);
    for (unsigned i = 0; i < count; ++i) {
      ASSERT_EQ(completions[i].error, kOk);
      Flight& flight = flights[completions[i].tag];
      ASSERT_TRUE(flight.busy);
      flight.busy = false;
      ++ended;
      if (!flight.write) {
        ASSERT_EQ(
            std::memcmp(flight.vectors[0].iov_base, model.data() + flight.first * kPageSize, flight.pages * kPageSize),
            0);
      }
    }
  }
  EXPECT_EQ(engine_->outstanding(), 0u);
}

TEST_P(IoEngineTest, ResubmitsWhatTheKernelLeftOver) {
  // One call transfers 2 GiB less a page at most: this one takes two. The file is a hole but for its last page.
  constexpr unsigned kVectors = 33;
  constexpr std::size_t kPiece = std::size_t{64} << 20;
  const int fd = memfd_create("polder-test", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  constexpr std::size_t kTotal = (kVectors - 1) * kPiece + kPageSize;
  ASSERT_EQ(ftruncate(fd, kTotal), 0);
  const std::string mark(kPageSize, 'm');
  ASSERT_EQ(pwrite(fd, mark.data(), kPageSize, kTotal - kPageSize), static_cast<ssize_t>(kPageSize));
  Buffer piece(kPiece);
  advise_huge_pages(piece.data, kPiece, HugePages::always);
  Buffer last(kPageSize);
  iovec vectors[kVectors];
  for (iovec& vector : vectors) vector = {piece.data, kPiece};
  vectors[kVectors - 1] = {last.data, kPageSize};
  engine_->read(fd, vectors, kVectors, 0, 1);
  EXPECT_EQ(finish_one(), kOk);
  EXPECT_EQ(std::memcmp(last.data, mark.data(), kPageSize), 0);
  ::close(fd);
}

TEST_P(IoEngineTest, ReadingBeyondTheEndIsAnError) {
  Buffer buffer(4 * kPageSize);
  ASSERT_EQ(ftruncate(file_.fd, kPageSize), 0);
  iovec vector{buffer.data, 4 * kPageSize};
  engine_->read(file_.fd, &vector, 1, 0, 1);
  EXPECT_EQ(finish_one(), Errno(EIO));
  engine_->read(file_.fd, &vector, 1, 64 * kPageSize, 1);
  EXPECT_EQ(finish_one(), Errno(EIO));
}

TEST_P(IoEngineTest, ReportsErrorsOneByOne) {
  Buffer buffer(4 * kPageSize);
  const int closed = dup(file_.fd);
  ::close(closed);
  ASSERT_EQ(ftruncate(file_.fd, kPageSize), 0);
  iovec good{buffer.data, kPageSize};
  iovec bad{reinterpret_cast<void*>(kPageSize), kPageSize};
  engine_->read(closed, &good, 1, 0, 1);
  engine_->read(file_.fd, &good, 1, 0, 2);
  engine_->read(file_.fd, &bad, 1, 0, 3);
  engine_->write(closed, &good, 1, 0, 4);
  const test::ErrnoWitness witness;
  for (const IoCompletion& completion : finish()) {
    switch (completion.tag) {
      case 2:
        EXPECT_EQ(completion.error, kOk);
        break;
      case 3:
        EXPECT_EQ(completion.error, Errno(EFAULT));
        break;
      default:
        EXPECT_EQ(completion.error, Errno(EBADF));
    }
  }
  EXPECT_TRUE(witness.untouched());
}

TEST_P(IoEngineTest, ReportsAFileSizeLimitAfterTheShortWrite) {
  EXPECT_CHILD_OK(test::in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{2 * kPageSize, 2 * kPageSize};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return test::kNotPossibleHere;
    IoEngineStorage storage;
    const Result<IoEngine*> made = make_io_engine(storage, GetParam(), kDepth);
    if (!made.ok()) return test::kNotPossibleHere;
    Buffer buffer(4 * kPageSize);
    std::memset(buffer.data, 'f', buffer.size);
    iovec vector{buffer.data, buffer.size};
    made.value->write(file_.fd, &vector, 1, 0, 1);
    const std::vector<IoCompletion> all = finish(*made.value);
    CHILD_EXPECT(all.size() == 1 && all[0].error == Errno(EFBIG));
    CHILD_EXPECT(lseek(file_.fd, 0, SEEK_END) == 2 * kPageSize);
    made.value->~IoEngine();
    return 0;
  }));
}

TEST_P(IoEngineTest, ReportsAFullFilesystem) {
  EXPECT_CHILD_OK(test::in_child([&] {
    if (!test::mount_private_tmpfs("/mnt", "size=64k")) return test::kNotPossibleHere;
    const Result<int> directory = open_directory("/mnt");
    CHILD_EXPECT(directory.ok());
    const Result<TemporaryFile> file = open_temporary(directory.value);
    CHILD_EXPECT(file.ok());
    IoEngineStorage storage;
    const Result<IoEngine*> made = make_io_engine(storage, GetParam(), kDepth);
    if (!made.ok()) return test::kNotPossibleHere;
    Buffer buffer(32 * kPageSize);
    iovec vector{buffer.data, buffer.size};
    made.value->write(file.value.fd, &vector, 1, 0, 1);
    const std::vector<IoCompletion> all = finish(*made.value);
    CHILD_EXPECT(all.size() == 1 && all[0].error == Errno(ENOSPC));
    made.value->~IoEngine();
    return 0;
  }));
}

TEST_P(IoEngineTest, WaitsUntilThereIsSomethingToReap) {
  Buffer buffer(kPageSize);
  ASSERT_EQ(ftruncate(file_.fd, kPageSize), 0);
  iovec vector{buffer.data, kPageSize};
  for (std::uint64_t tag = 0; tag < 3; ++tag) engine_->read(file_.fd, &vector, 1, 0, tag);
  for (unsigned left = 3; left != 0; --left) {
    IoCompletion completion;
    while (engine_->reap(&completion, 1) == 0) engine_->wait(-1);
    EXPECT_EQ(engine_->outstanding(), left - 1);
  }
  IoCompletion completion;
  engine_->wait(1);
  EXPECT_EQ(engine_->reap(&completion, 1), 0u);
}

// A completion that is taken before its announcement came must not leave the announcement standing.
TEST_P(IoEngineTest, WaitsWhenEverythingWasReapedWithoutWaiting) {
  Buffer buffer(kPageSize);
  ASSERT_EQ(ftruncate(file_.fd, kPageSize), 0);
  iovec vector{buffer.data, kPageSize};
  IoCompletion completion;
  for (unsigned round = 0; round < 200; ++round) {
    engine_->read(file_.fd, &vector, 1, 0, round);
    engine_->submit();
    while (engine_->outstanding() != 0) engine_->reap(&completion, 1);
    for (unsigned more = round % 50; more != 0; --more) ASSERT_EQ(engine_->reap(&completion, 1), 0u);
    engine_->wait(1);
    ASSERT_EQ(engine_->reap(&completion, 1), 0u);
    const std::uint64_t before = monotonic_ns();
    engine_->wait(3);
    ASSERT_GE(monotonic_ns() - before, 2500000u) << "round " << round;
  }
}

TEST_P(IoEngineTest, SpinsOrGivesUp) {
  Buffer buffer(kPageSize);
  ASSERT_EQ(ftruncate(file_.fd, kPageSize), 0);
  iovec vector{buffer.data, kPageSize};
  IoCompletion completion;
  EXPECT_FALSE(engine_->spin(1000));
  engine_->read(file_.fd, &vector, 1, 0, 7);
  if (!engine_->spin(std::uint64_t{10} << 30)) engine_->wait(-1);
  ASSERT_EQ(engine_->reap(&completion, 1), 1u);
  EXPECT_EQ(completion.tag, 7u);
}

TEST_P(IoEngineTest, TakesNoMoreThanItsDepth) {
  Buffer buffer(kPageSize);
  iovec vector{buffer.data, kPageSize};
  for (std::uint64_t tag = 0; tag < kDepth; ++tag) engine_->write(file_.fd, &vector, 1, 0, tag);
  EXPECT_DEATH(engine_->write(file_.fd, &vector, 1, 0, kDepth), "more I/O than the engine's depth");
  EXPECT_EQ(finish().size(), kDepth);
  // All of them again, so that every entry is seen to be usable twice.
  for (std::uint64_t tag = 0; tag < kDepth; ++tag) engine_->write(file_.fd, &vector, 1, 0, tag);
  EXPECT_EQ(finish().size(), kDepth);
}

TEST_P(IoEngineTest, DestructionWaitsForWhatIsInFlight) {
  Buffer buffer(16 * kPageSize);
  std::memset(buffer.data, 'd', buffer.size);
  const std::size_t threads = thread_count();
  IoEngineStorage storage;
  const Result<IoEngine*> made = make_io_engine(storage, GetParam(), kDepth);
  ASSERT_TRUE(made.ok());
  iovec vectors[16];
  for (std::size_t i = 0; i < 16; ++i) {
    vectors[i] = {buffer.data + i * kPageSize, kPageSize};
    made.value->write(file_.fd, &vectors[i], 1, i * kPageSize, i);
  }
  made.value->submit();
  made.value->~IoEngine();
  Buffer in(16 * kPageSize);
  iovec vector{in.data, in.size};
  engine_->read(file_.fd, &vector, 1, 0, 1);
  EXPECT_EQ(finish_one(), kOk);
  EXPECT_EQ(std::memcmp(in.data, buffer.data, in.size), 0);
  // Workers that have left their loop still have to be taken down by the kernel; the ring's kernel threads are not ours.
  if (GetParam() == IoBackend::uring) return;
  for (int tries = 0; tries < 1000 && thread_count() > threads; ++tries) sleep_ms(1);
  EXPECT_LE(thread_count(), threads);
}

TEST_P(IoEngineTest, AForkedChildBuildsItsOwn) {
  Buffer buffer(kPageSize);
  std::memset(buffer.data, 'p', kPageSize);
  iovec vector{buffer.data, kPageSize};
  engine_->write(file_.fd, &vector, 1, 0, 1);
  engine_->submit();
  const int status = test::in_child([&] {
    IoEngineStorage storage;
    const Result<IoEngine*> made = make_io_engine(storage, GetParam(), kDepth);
    CHILD_EXPECT(made.ok());
    Buffer mine(kPageSize);
    std::memset(mine.data, 'c', kPageSize);
    iovec vector_of_child{mine.data, kPageSize};
    made.value->write(file_.fd, &vector_of_child, 1, kPageSize, 2);
    const std::vector<IoCompletion> all = finish(*made.value);
    CHILD_EXPECT(all.size() == 1 && all[0].tag == 2 && all[0].error.ok());
    made.value->~IoEngine();
    return 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(finish_one(), kOk);
  Buffer in(2 * kPageSize);
  vector = {in.data, in.size};
  engine_->read(file_.fd, &vector, 1, 0, 1);
  ASSERT_EQ(finish_one(), kOk);
  EXPECT_EQ(in.data[0], 'p');
  EXPECT_EQ(in.data[kPageSize], 'c');
}

TEST(IoBackendChoice, FallsBackToWorkersWhereTheRingIsRefused) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_io_uring_setup, EPERM)) return test::kNotPossibleHere;
    const test::ErrnoWitness witness;
    CHILD_EXPECT(probe_io_uring() == Errno(EPERM));
    IoEngineStorage storage;
    CHILD_EXPECT(make_io_engine(storage, IoBackend::uring, kDepth).error == Errno(EPERM));
    const Result<IoEngine*> made = make_io_engine(storage, IoBackend::automatic, kDepth);
    CHILD_EXPECT(witness.untouched());
    CHILD_EXPECT(made.ok() && std::strcmp(made.value->name(), "workers") == 0);
    made.value->~IoEngine();
    return 0;
  }));
}

TEST(IoBackendChoice, NoticesARingThatCannotBeEntered) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!probe_io_uring().ok()) return test::kNotPossibleHere;
    if (!test::refuse(SYS_io_uring_enter, ENOSYS)) return test::kNotPossibleHere;
    CHILD_EXPECT(probe_io_uring() == Errno(ENOSYS));
    IoEngineStorage storage;
    const Result<IoEngine*> made = make_io_engine(storage, IoBackend::automatic, kDepth);
    CHILD_EXPECT(made.ok() && std::strcmp(made.value->name(), "workers") == 0);
    made.value->~IoEngine();
    return 0;
  }));
}

TEST(IoBackendChoice, PrefersTheRing) {
  if (!probe_io_uring().ok()) GTEST_SKIP() << "io_uring is refused here";
  IoEngineStorage storage;
  const Result<IoEngine*> made = make_io_engine(storage, IoBackend::automatic, kDepth);
  ASSERT_TRUE(made.ok());
  EXPECT_STREQ(made.value->name(), "io_uring");
  made.value->~IoEngine();
}

TEST(IoBackendChoice, ReportsThatNothingCanBeHad) {
  EXPECT_CHILD_OK(test::in_child([] {
    const rlimit limit{3, 3};
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return test::kNotPossibleHere;
    IoEngineStorage storage;
    CHILD_EXPECT(make_io_engine(storage, IoBackend::automatic, kDepth).error == Errno(EMFILE));
    return 0;
  }));
}

}  // namespace
}  // namespace polder::os
