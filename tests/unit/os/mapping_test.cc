#include "os/mapping.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "base/units.h"
#include "os/pagemap.h"
#include "os/thread.h"
#include "unit/os/child.h"

namespace polder::os {
namespace {

bool readable(const void* address) {
  std::uint32_t word;
  return read_word_safely(address, &word);
}

std::size_t address_space_pages() {
  std::FILE* file = std::fopen("/proc/self/statm", "re");
  std::size_t pages = 0;
  if (file == nullptr || std::fscanf(file, "%zu", &pages) != 1) ADD_FAILURE();
  std::fclose(file);
  return pages;
}

TEST(Mapping, PagesAreTheSizeTheLibraryIsBuiltFor) {
  const test::ErrnoWitness witness;
  EXPECT_EQ(page_size(), kPageSize);
  EXPECT_TRUE(witness.untouched());
}

TEST(Mapping, ReserveAlignsAndTrims) {
  for (const std::size_t alignment : {kPageSize, kGranuleSize, kBlockSize, std::size_t{1} << 30}) {
    for (const std::size_t size : {kPageSize, 3 * kPageSize, kBlockSize, std::size_t{1} << 33}) {
      const std::size_t before = address_space_pages();
      const Result<char*> range = reserve(size, alignment);
      ASSERT_TRUE(range.ok());
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(range.value) % alignment, 0u);
      EXPECT_EQ(address_space_pages() - before, size / kPageSize);
      EXPECT_FALSE(readable(range.value));
      release(range.value, size);
      EXPECT_EQ(address_space_pages(), before);
    }
  }
}

// The address of a random reservation, in a child of the given personality; 0 when it could not be made.
std::uintptr_t random_place(unsigned long personality_bits) {
  int ends[2];
  if (pipe(ends) != 0) return 0;
  const pid_t child = fork();
  if (child == 0) {
    personality(personality_bits);
    const Result<char*> range = reserve(std::size_t{1} << 33, kBlockSize, Placement::random);
    if (range.ok()) static_cast<void>(!write(ends[1], &range.value, sizeof range.value));
    _exit(0);
  }
  close(ends[1]);
  std::uintptr_t place = 0;
  if (read(ends[0], &place, sizeof place) != sizeof place) place = 0;
  close(ends[0]);
  waitpid(child, nullptr, 0);
  return place;
}

TEST(Mapping, RandomReservationsDifferUnlessRandomizationIsOff) {
  std::set<std::uintptr_t> places;
  for (int i = 0; i < 8; ++i) {
    places.insert(random_place(0));
    places.insert(random_place(0));
  }
  EXPECT_EQ(places.count(0), 0U);
  for (const std::uintptr_t place : places) EXPECT_EQ(place % kBlockSize, 0U);
#if !defined(__SANITIZE_THREAD__)
  EXPECT_GE(places.size(), 15U);  // of 16, out of millions
#endif
  const std::uintptr_t fixed = random_place(ADDR_NO_RANDOMIZE);
  EXPECT_NE(fixed, 0U);
  EXPECT_EQ(random_place(ADDR_NO_RANDOMIZE), fixed);
}

TEST(Mapping, ReserveReportsTheLimit) {
  const test::ErrnoWitness witness;
  EXPECT_EQ(reserve(std::size_t{1} << 50, kPageSize).error, Errno(ENOMEM));
  EXPECT_EQ(reserve(SIZE_MAX & ~(kPageSize - 1), kBlockSize).error, Errno(ENOMEM));
  EXPECT_TRUE(witness.untouched());
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // their shadow does not live under RLIMIT_AS
TEST(Mapping, ReserveMeetsRlimit) {
  EXPECT_EQ(address_space_limit(), SIZE_MAX);
  EXPECT_CHILD_OK(test::in_child([] {
    const rlimit limit{std::size_t{1} << 30, std::size_t{1} << 30};
    if (setrlimit(RLIMIT_AS, &limit) != 0) return test::kNotPossibleHere;
    CHILD_EXPECT(address_space_limit() == std::size_t{1} << 30);
    CHILD_EXPECT(reserve(std::size_t{2} << 30, kBlockSize).error == Errno(ENOMEM));
    CHILD_EXPECT(map_private(std::size_t{2} << 30).error == Errno(ENOMEM));
    CHILD_EXPECT(reserve(std::size_t{64} << 20, kBlockSize).ok());
    return 0;
  }));
}
#endif

TEST(Mapping, CommittedMemoryIsZeroAndWritable) {
  constexpr std::size_t kSize = 16 * kPageSize;
  const Result<char*> range = reserve(kSize, kPageSize);
  ASSERT_TRUE(range.ok());
  const test::ErrnoWitness witness;
  EXPECT_EQ(commit(range.value + kPageSize, 2 * kPageSize), kOk);
  EXPECT_TRUE(witness.untouched());
  EXPECT_FALSE(readable(range.value));
  EXPECT_TRUE(readable(range.value + kPageSize));
  EXPECT_FALSE(readable(range.value + 3 * kPageSize));
  EXPECT_EQ(range.value[kPageSize], 0);
  range.value[2 * kPageSize] = 1;
  release(range.value, kSize);
  EXPECT_EQ(commit(range.value, kPageSize), Errno(ENOMEM));
  EXPECT_TRUE(witness.untouched());
}

TEST(Mapping, SharedFilesAreShared) {
  const int fd = memfd_create("polder-test", MFD_CLOEXEC);
  ASSERT_GE(fd, 0);
  ASSERT_EQ(ftruncate(fd, kPageSize), 0);
  const Result<char*> one = map_shared_file(fd, kPageSize);
  const Result<char*> other = map_shared_file(fd, kPageSize);
  ASSERT_TRUE(one.ok() && other.ok());
  one.value[5] = 'x';
  EXPECT_EQ(other.value[5], 'x');
  release(one.value, kPageSize);
  release(other.value, kPageSize);
  ::close(fd);
  EXPECT_EQ(map_shared_file(fd, kPageSize).error, Errno(EBADF));
}

TEST(Mapping, DiscardedPagesReadAsZero) {
  const Result<char*> memory = map_private(4 * kPageSize);
  ASSERT_TRUE(memory.ok());
  std::memset(memory.value, 'a', 4 * kPageSize);
  EXPECT_EQ(discard(memory.value + kPageSize, 2 * kPageSize), kOk);
  EXPECT_EQ(memory.value[0], 'a');
  EXPECT_EQ(memory.value[kPageSize], 0);
  EXPECT_EQ(memory.value[3 * kPageSize - 1], 0);
  EXPECT_EQ(memory.value[3 * kPageSize], 'a');
  release(memory.value, 4 * kPageSize);
  const test::ErrnoWitness witness;
  EXPECT_EQ(discard(memory.value, kPageSize), Errno(ENOMEM));
  EXPECT_TRUE(witness.untouched());
}

// Discards every page whose number divided by `modulus` leaves less than `below`, and checks that it went, alone.
void discard_pattern(std::size_t pages, std::size_t modulus, std::size_t below) {
  const Result<char*> memory = map_private(pages * kPageSize);
  ASSERT_TRUE(memory.ok());
  advise_huge_pages(memory.value, pages * kPageSize, HugePages::never);
  std::vector<iovec> ranges;
  for (std::size_t page = 0; page < pages; ++page) {
    memory.value[page * kPageSize] = 'a';
    if (page % modulus < below) ranges.push_back({memory.value + page * kPageSize, kPageSize});
  }
  const test::ErrnoWitness witness;
  EXPECT_EQ(discard_all(ranges.data(), ranges.size()), kOk);
  EXPECT_TRUE(witness.untouched());
  for (std::size_t page = 0; page < pages; ++page) {
    ASSERT_EQ(memory.value[page * kPageSize], page % modulus < below ? 0 : 'a') << page;
  }
  release(memory.value, pages * kPageSize);
}

TEST(DiscardAll, DropsExactlyTheRanges) {
  discard_pattern(1, 1, 1);
  discard_pattern(5000, 2, 1);
  discard_pattern(5000, 7, 3);
  discard_pattern(5000, 5000, 4999);
}

TEST(DiscardAll, WorksWithoutProcessMadvise) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_process_madvise, ENOSYS)) return test::kNotPossibleHere;
    discard_pattern(1000, 3, 1);
    return testing::Test::HasFailure() ? 1 : 0;
  }));
}

TEST(DiscardAll, AcceptsNothing) { EXPECT_EQ(discard_all(nullptr, 0), kOk); }

TEST(DiscardAll, GoesOnBeyondTwoGigabytes) {
  constexpr std::size_t kHalf = std::size_t{3} << 30;
  const Result<char*> range = reserve(3 * kHalf, kPageSize);
  ASSERT_TRUE(range.ok());
  ASSERT_EQ(commit(range.value, 3 * kHalf), kOk);
  const std::size_t touched[] = {0, kHalf - kPageSize, kHalf, 2 * kHalf, 3 * kHalf - kPageSize};
  for (const std::size_t offset : touched) range.value[offset] = 'a';
  const iovec ranges[] = {{range.value, kHalf}, {range.value + 2 * kHalf, kHalf}};
  EXPECT_EQ(discard_all(ranges, 2), kOk);
  for (const std::size_t offset : touched) {
    EXPECT_EQ(range.value[offset], offset == kHalf ? 'a' : 0) << offset;
  }
  release(range.value, 3 * kHalf);
}

TEST(DiscardAll, ReportsABadRangeAndDropsTheRest) {
  constexpr std::size_t kPages = 900;
  const Result<char*> memory = map_private(kPages * kPageSize);
  ASSERT_TRUE(memory.ok());
  std::vector<iovec> ranges;
  for (std::size_t page = 0; page < kPages; page += 2) {
    memory.value[page * kPageSize] = 'a';
    ranges.push_back({memory.value + page * kPageSize, kPageSize});
  }
  // A range that is not mapped is bad; a locked one is not, although MADV_DONTNEED alone refuses it.
  char* const hole = memory.value + 100 * kPageSize;
  char* const locked = memory.value + 200 * kPageSize;
  if (syscall(SYS_mlock, locked, kPageSize) != 0) GTEST_SKIP() << "mlock refused";
  release(hole, kPageSize);
  const test::ErrnoWitness witness;
  EXPECT_EQ(discard_all(ranges.data(), ranges.size()), Errno(ENOMEM));
  EXPECT_TRUE(witness.untouched());
  for (std::size_t page = 0; page < kPages; page += 2) {
    if (page == 100) continue;
    ASSERT_EQ(memory.value[page * kPageSize], 0) << page;
  }
  // One bad range does not make the kernel's batches unusable for good: the same again, without it.
  memory.value[0] = 'b';
  ranges.erase(ranges.begin() + 50);
  EXPECT_EQ(discard_all(ranges.data(), ranges.size()), kOk);
  EXPECT_EQ(memory.value[0], 0);
  release(memory.value, kPages * kPageSize);
}

TEST(Mapping, UnloadedPagesAreReadFromTheirFileAgain) {
  const int fd = static_cast<int>(syscall(SYS_memfd_create, "unloaded", 0));
  ASSERT_GE(fd, 0);
  std::vector<char> text(2 * kPageSize, 'f');
  ASSERT_EQ(::write(fd, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  void* const mapping = mmap(nullptr, 2 * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
  ASSERT_NE(mapping, MAP_FAILED);
  auto* const bytes = static_cast<volatile char*>(mapping);
  EXPECT_EQ(bytes[0], 'f');
  bytes[kPageSize] = 'm';
  const test::ErrnoWitness witness;
  unload(mapping, 2 * kPageSize);
  EXPECT_TRUE(witness.untouched());
  Pagemap pagemap;
  ASSERT_EQ(pagemap.open(), kOk);
  std::uint64_t present = ~std::uint64_t{0};
  ASSERT_EQ(pagemap.scan_present(mapping, 2 * kPageSize, &present), kOk);
  EXPECT_EQ(present & 3, 0U);
  EXPECT_EQ(bytes[0], 'f');
  EXPECT_EQ(bytes[kPageSize], 'f');
  munmap(mapping, 2 * kPageSize);
  ::close(fd);
}

TEST(Mapping, PopulateWritableKeepsContents) {
  constexpr std::size_t kPages = 8;
  const Result<char*> memory = map_private(kPages * kPageSize);
  ASSERT_TRUE(memory.ok());
  advise_huge_pages(memory.value, kPages * kPageSize, HugePages::never);
  memory.value[3 * kPageSize] = 'a';
  const test::ErrnoWitness witness;
  const Errno error = populate_writable(memory.value, kPages * kPageSize);
  EXPECT_TRUE(witness.untouched());
  if (error == Errno(EINVAL)) GTEST_SKIP() << "the kernel has no MADV_POPULATE_WRITE";
  ASSERT_EQ(error, kOk);
  Pagemap pagemap;
  ASSERT_EQ(pagemap.open(), kOk);
  std::uint64_t present = 0;
  ASSERT_EQ(pagemap.scan_present(memory.value, kPages * kPageSize, &present), kOk);
  EXPECT_EQ(present, 0xffu);
  EXPECT_EQ(memory.value[3 * kPageSize], 'a');
  EXPECT_EQ(memory.value[0], 0);

  ASSERT_EQ(mprotect(memory.value, kPageSize, PROT_NONE), 0);
  EXPECT_EQ(populate_writable(memory.value, kPages * kPageSize), Errno(EINVAL));
  release(memory.value, kPages * kPageSize);
  EXPECT_EQ(populate_writable(memory.value, kPageSize), Errno(ENOMEM));
}

TEST(Mapping, HugePageAdviceIsHarmless) {
  const Result<char*> memory = reserve(2 * kBlockSize, kBlockSize);
  ASSERT_TRUE(memory.ok());
  ASSERT_EQ(commit(memory.value, 2 * kBlockSize), kOk);
  const test::ErrnoWitness witness;
  for (const HugePages policy : {HugePages::never, HugePages::always}) {
    advise_huge_pages(memory.value, kBlockSize, policy);
  }
  EXPECT_TRUE(witness.untouched());
  memory.value[0] = 1;
  release(memory.value, 2 * kBlockSize);
}

TEST(Mapping, HugePagesComeWhereTheMachineSaysSo) {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string policy;
  std::getline(file, policy);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(huge_page_mode() == HugePageMode::unasked, policy.find("[always]") != std::string::npos) << policy;
    EXPECT_EQ(huge_page_mode() == HugePageMode::advised, policy.find("[madvise]") != std::string::npos) << policy;
  }
}

TEST(Mapping, PageTablesAreShadowedOrNot) {
  const test::ErrnoWitness witness;
  const bool answer = page_tables_are_shadowed();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(page_tables_are_shadowed(), answer);
  EXPECT_TRUE(witness.untouched());
}

TEST(Mapping, MostlyUntouchedIsLessThanHalf) {
  constexpr std::size_t kPages = 300;  // more than are asked for at once
  const Result<char*> memory = map_private(kPages * kPageSize);
  ASSERT_TRUE(memory.ok());
  advise_huge_pages(memory.value, kPages * kPageSize, HugePages::never);
  for (std::size_t page = 0; page < kPages; ++page) {
    EXPECT_EQ(mostly_untouched(memory.value, kPages * kPageSize), page < kPages / 2) << page;
    memory.value[page * kPageSize] = 1;
  }
  EXPECT_FALSE(mostly_untouched(memory.value + kPageSize, kPageSize));
  release(memory.value, kPages * kPageSize);
  EXPECT_FALSE(mostly_untouched(memory.value, kPages * kPageSize)) << "nothing is mapped there";
}

TEST(Mapping, FirstPresentPagesAreAsManyInARowAsWanted) {
  constexpr std::size_t kPages = 400;
  const Result<char*> memory = map_private(kPages * kPageSize);
  ASSERT_TRUE(memory.ok());
  advise_huge_pages(memory.value, kPages * kPageSize, HugePages::never);
  const auto touch = [&memory](std::size_t first, std::size_t count) {
    for (std::size_t page = first; page < first + count; ++page) memory.value[page * kPageSize] = 1;
  };
  const auto expect = [&memory](std::size_t from, std::size_t least, std::size_t first, std::size_t count) {
    const PresentPages found = first_present(memory.value + from * kPageSize, (kPages - from) * kPageSize, least);
    EXPECT_EQ(found.count, count) << from << ' ' << least;
    if (count != 0) {
      EXPECT_EQ(found.first, first) << from << ' ' << least;
    }
  };
  expect(0, 1, 0, 0);
  touch(3, 2);
  touch(120, 20);  // across the pages that are asked for at once
  touch(390, 10);
  expect(0, 1, 3, 2);
  expect(4, 1, 0, 1);
  expect(0, 3, 120, 20);
  expect(0, 20, 120, 20);
  expect(0, 21, 0, 0);
  expect(130, 10, 0, 10);
  expect(130, 11, 0, 0);
  expect(145, 5, 245, 10);
  release(memory.value, kPages * kPageSize);
  EXPECT_EQ(first_present(memory.value, kPages * kPageSize, 16).count, kPages) << "nothing is mapped there";
}

TEST(Mapping, ReadableIsWhatCanBeRead) {
  const Result<char*> memory = reserve(2 * kPageSize, kPageSize);
  ASSERT_TRUE(memory.ok());
  ASSERT_EQ(commit(memory.value, kPageSize), kOk);
  sigset_t before{};
  sigset_t after{};
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &before), 0);
  const test::ErrnoWitness witness;
  EXPECT_TRUE(is_readable(memory.value));
  EXPECT_TRUE(is_readable(memory.value + kPageSize - 8));
  EXPECT_FALSE(is_readable(memory.value + kPageSize));  // reserved only
  EXPECT_FALSE(is_readable(nullptr));
  EXPECT_FALSE(is_readable(reinterpret_cast<void*>(0x8000'0000'0000'0000)));
  static const std::uint64_t constant = 1;
  EXPECT_TRUE(is_readable(&constant));
  EXPECT_TRUE(witness.untouched());
  ASSERT_EQ(pthread_sigmask(SIG_SETMASK, nullptr, &after), 0);
  EXPECT_EQ(std::memcmp(&before, &after, sizeof before), 0);
  release(memory.value, 2 * kPageSize);
  EXPECT_FALSE(is_readable(memory.value));
}

TEST(Mapping, AChildInheritsWhatItIsMeantTo) {
  const Result<char*> memory = map_private(4 * kPageSize);
  ASSERT_TRUE(memory.ok());
  std::memset(memory.value, 1, 4 * kPageSize);
  char* const withheld = memory.value + kPageSize;
  const auto child_reads = [withheld] { return test::in_child([withheld] { return is_readable(withheld) ? 1 : 0; }); };
  ASSERT_EQ(set_inheritance(withheld, 2 * kPageSize, Inheritance::nothing), kOk);
  EXPECT_EQ(child_reads(), 0);
  EXPECT_EQ(test::in_child([&] { return is_readable(memory.value) && is_readable(withheld + 2 * kPageSize) ? 0 : 1; }),
            0);
  ASSERT_EQ(set_inheritance(memory.value, 4 * kPageSize, Inheritance::copied), kOk);
  EXPECT_EQ(child_reads(), 1);
  EXPECT_EQ(*withheld, 1);
  release(memory.value, 4 * kPageSize);
}

TEST(Mapping, GuardsOutliveDiscardAndFork) {
  const Result<char*> memory = map_private(4 * kPageSize);
  ASSERT_TRUE(memory.ok());
  std::memset(memory.value, 1, 4 * kPageSize);
  char* const guard = memory.value + kPageSize;
  const Errno error = install_guards(guard, 2 * kPageSize);
  if (error == Errno(EINVAL)) GTEST_SKIP() << "the kernel has no MADV_GUARD_INSTALL";
  ASSERT_EQ(error, kOk);
  EXPECT_EQ(discard(memory.value, 3 * kPageSize), kOk);
  EXPECT_FALSE(is_readable(guard));
  EXPECT_FALSE(is_readable(guard + 2 * kPageSize - 8));
  EXPECT_EQ(memory.value[0], 0);
  EXPECT_EQ(memory.value[3 * kPageSize], 1);
  EXPECT_CHILD_OK(test::in_child([guard] {
    CHILD_EXPECT(!is_readable(guard));
    CHILD_EXPECT(remove_guards(guard, kPageSize).ok());
    CHILD_EXPECT(is_readable(guard) && !is_readable(guard + kPageSize));
    return 0;
  }));
  EXPECT_FALSE(is_readable(guard));
  EXPECT_EQ(remove_guards(guard, 2 * kPageSize), kOk);
  EXPECT_EQ(guard[0], 0);
  EXPECT_EQ(guard[kPageSize], 0);
  release(memory.value, 4 * kPageSize);
}

TEST(Mapping, ProgramBreakIsTheKernels) {
  const test::ErrnoWitness witness;
  EXPECT_EQ(program_break(), reinterpret_cast<std::uintptr_t>(sbrk(0)));
  EXPECT_TRUE(witness.untouched());
}

}  // namespace
}  // namespace polder::os
