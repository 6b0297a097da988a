#include "vm/arena.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "os/mapping.h"

namespace polder {
namespace {

Arena::Layout small_layout(std::size_t) { return {.metadata = 3 * kPageSize, .staging = 5 * kPageSize}; }

TEST(Arena, LaysOutMetadataStagingAndBlocksUpwards) {
  Arena arena;
  ASSERT_TRUE(arena.reserve(4 * Arena::kChunkSize, Arena::kChunkSize, small_layout).ok());
  EXPECT_EQ(arena.size(), 4 * Arena::kChunkSize);
  EXPECT_LE(arena.metadata() + arena.metadata_size(), arena.staging());
  EXPECT_LE(arena.staging() + arena.staging_size(), arena.base());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena.base()) % kBlockSize, 0U);
  EXPECT_TRUE(arena.contains(arena.base()));
  EXPECT_TRUE(arena.contains(arena.base() + arena.size() - 1));
  EXPECT_FALSE(arena.contains(arena.base() - 1));
  EXPECT_FALSE(arena.contains(arena.base() + arena.size()));
  EXPECT_EQ(arena.page_of(arena.base() + 5 * kPageSize + 7), PageId{5});
  EXPECT_EQ(arena.address(PageId{5}), arena.base() + 5 * kPageSize);
}

TEST(Arena, NothingIsAccessibleAroundItsParts) {
  Arena arena;
  ASSERT_TRUE(arena.reserve(Arena::kChunkSize, Arena::kChunkSize, small_layout).ok());
  ASSERT_TRUE(arena.commit({.first = PageId{0}, .pages = arena.pages()}).ok());
  ASSERT_TRUE(os::commit(arena.metadata(), arena.metadata_size()).ok());
  ASSERT_TRUE(os::commit(arena.staging(), arena.staging_size()).ok());
  char* const first = arena.metadata() - kPageSize;  // of the arena's own state
  for (const auto& [begin, end] : {std::pair(first, arena.metadata() + arena.metadata_size()),
                                   std::pair(arena.staging(), arena.staging() + arena.staging_size()),
                                   std::pair(arena.base(), arena.base() + arena.size())}) {
    EXPECT_TRUE(os::is_readable(begin));
    EXPECT_TRUE(os::is_readable(end - 8));
    for (std::size_t distance = 8; distance <= Arena::kGuardSize; distance *= 2) {
      EXPECT_FALSE(os::is_readable(begin - distance)) << distance;
      EXPECT_FALSE(os::is_readable(end + distance - 8)) << distance;
    }
  }
}

TEST(Arena, CommitsWholeChunksOnce) {
  Arena arena;
  ASSERT_TRUE(arena.reserve(4 * Arena::kChunkSize, Arena::kChunkSize, small_layout).ok());
  constexpr std::uint32_t kChunkPages = Arena::kChunkSize / kPageSize;
  const polder::Run straddling{.first = PageId{kChunkPages - 1}, .pages = PageCount{2}};
  EXPECT_EQ(arena.uncommitted_chunks(straddling), 2U);
  const Result<std::size_t> first = arena.commit(straddling);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first.value, 2U);
  std::memset(arena.address(straddling.first), 1, 2 * kPageSize);
  EXPECT_EQ(arena.uncommitted_chunks(straddling), 0U);
  EXPECT_EQ(arena.commit(straddling).value, 0U);
  EXPECT_EQ(arena.uncommitted_chunks({.first = PageId{0}, .pages = arena.pages()}), 2U);
  EXPECT_EQ(arena.commit(polder::Run{.first = PageId{0}, .pages = PageCount{3 * kChunkPages}}).value, 1U);
  EXPECT_EQ(arena.address(straddling.first)[0], 1);
}

// In a child, whose limit is its own. The status tells which expectation failed.
template <typename Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

TEST(Arena, ShrinksUnderAddressSpaceLimitDownToTheSmallest) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's shadow does not fit an address space limit";
#endif
  EXPECT_EQ(in_child([] {
              constexpr std::size_t kLimit = std::size_t{40} << 30;
              const rlimit limit{kLimit, kLimit};
              if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
              Arena arena;
              if (!arena.reserve(Arena::kDefaultSize, Arena::kSmallestSize, small_layout).ok()) return 2;
              if (arena.size() > kLimit / 2 || arena.size() < kLimit / 4) return 3;
              return 0;
            }),
            0);
  EXPECT_EQ(in_child([] {
              const rlimit limit{std::size_t{2} << 30, std::size_t{2} << 30};
              if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
              Arena arena;
              return arena.reserve(Arena::kDefaultSize, Arena::kSmallestSize, small_layout).code() == ENOMEM ? 0 : 2;
            }),
            0);
}

}  // namespace
}  // namespace polder
