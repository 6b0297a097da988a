// What the program sees when reading swap fails: SIGBUS at the page that is gone, its own bytes everywhere else.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <vector>

#include "unit/manager/read_faults_fixture.h"
#include "unit/os/child.h"

namespace polder {
namespace {

TEST_P(ReadFaultsTest, AFailedReadIsRepeatedThenRaisesSigbusAndSparesTheRest) {
  prepare(8 * kMiB, 24 * kMiB);
  const std::vector<Target> folios = targets();
  ASSERT_FALSE(folios.empty());
  const std::size_t page = folios[0].page + 7;
  const std::uint64_t offset = offset_of(victims_, page);
  const Slots tail = swap_.save(offset, end_of_swap());
  const std::uint64_t errors = read_errors();

  swap_.cut(offset);
  EXPECT_EQ(victims_.look(page), Seen::bus);
  EXPECT_EQ(read_errors(), errors + 3);
  EXPECT_EQ(victims_.look(page - 1), Seen::right);
  swap_.restore(tail);

  EXPECT_EQ(victims_.count(Seen::right), victims_.pages.value - 1);
  EXPECT_EQ(others_.count(Seen::right), others_.pages.value);
  EXPECT_EQ(victims_.look(page), Seen::bus);
  EXPECT_EQ(word_of(victims_, page).state(), PageState::lost);
  EXPECT_EQ(read_errors(), errors + 3);
  expect_nothing_written();
  manager_->verify();
}

TEST_P(ReadFaultsTest, APageThatWasLostStaysLostWhileItsFolioComesAndGoes) {
  prepare(4 * kMiB, 24 * kMiB);
  const std::vector<Target> folios = targets();
  ASSERT_FALSE(folios.empty());
  const std::size_t page = folios[0].page + 7;
  const Slots tail = swap_.save(offset_of(victims_, page), end_of_swap());
  swap_.cut(tail.offset());
  ASSERT_EQ(victims_.look(page), Seen::bus);
  swap_.restore(tail);
  for (int round = 0; round < 5; ++round) {
    EXPECT_EQ(victims_.count(Seen::right), victims_.pages.value - 1);
    for (std::size_t i = 0; i < kPagesPerFolio; ++i) {
      if (folios[0].page + i != page) victims_.write(folios[0].page + i);
    }
    EXPECT_EQ(others_.count(Seen::right), others_.pages.value);
    EXPECT_EQ(victims_.look(page), Seen::bus);
  }
}

// The second touch of a folio reads what is stored of eight pages, of which only the first three are there; in two stretches, as
// one page is left out for a probe.
TEST_P(ReadFaultsTest, AWindowThatFailsInPartIsReadAgainPageByPage) {
  prepare(4 * kMiB, 24 * kMiB);
  const std::vector<Target> folios = targets();
  ASSERT_FALSE(folios.empty());
  make_room();
  const std::size_t first = folios[0].page;
  const Slots tail = swap_.save(folios[0].offset + 3 * kPageSize, end_of_swap());
  const std::uint64_t errors = read_errors();
  swap_.cut(tail.offset());
  EXPECT_EQ(victims_.look(first), Seen::right);
  EXPECT_EQ(read_errors(), errors);
  EXPECT_EQ(victims_.look(first + 1), Seen::right);
  EXPECT_EQ(read_errors(), errors + 2);
  // Nobody had asked for the fourth.
  EXPECT_EQ(word_of(victims_, first + 3).state(), PageState::stored);
  swap_.restore(tail);
  EXPECT_EQ(victims_.count(Seen::right), victims_.pages.value);
  EXPECT_EQ(read_errors(), errors + 2);
}

TEST_P(ReadFaultsTest, AWindowWhoseFirstPageFailsLosesThatPageOnly) {
  prepare(4 * kMiB, 24 * kMiB);
  const std::vector<Target> folios = targets();
  ASSERT_FALSE(folios.empty());
  make_room();
  const std::size_t first = folios[0].page;
  for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(victims_.look(first + i), Seen::right) << i;
  // The first half of the folio has come, the next fault there reads the other.
  ASSERT_TRUE(is_stored(victims_, first + 8));
  const Slots tail = swap_.save(offset_of(victims_, first + 8), end_of_swap());
  const std::uint64_t errors = read_errors();
  swap_.cut(tail.offset());
  EXPECT_EQ(victims_.look(first + 8), Seen::bus);
  EXPECT_EQ(read_errors(), errors + 4);
  swap_.restore(tail);
  for (std::size_t i = 9; i < kPagesPerFolio; ++i) EXPECT_EQ(victims_.look(first + i), Seen::right) << i;
  EXPECT_EQ(victims_.look(first + 8), Seen::bus);
  EXPECT_EQ(victims_.count(Seen::right), victims_.pages.value - 1);
}

TEST_P(ReadFaultsTest, OtherBytesThanWereWrittenRaiseSigbusAndAreNeverSeen) {
  prepare(4 * kMiB, 24 * kMiB);
  const std::vector<Target> folios = targets();
  ASSERT_GE(folios.size(), 4U);
  const std::uint64_t errors = read_errors();
  std::vector<std::size_t> damaged;

  // A single bit.
  Slots bit = swap_.save(folios[0].offset + 4 * kPageSize, folios[0].offset + 5 * kPageSize);
  bit.bytes()[4095] = static_cast<char>(bit.bytes()[4095] ^ 1);
  swap_.restore(bit);
  damaged.push_back(folios[0].page + 4);

  // A write that went elsewhere: two slots exchanged.
  const Slots two = swap_.save(folios[1].offset, folios[1].offset + 2 * kPageSize);
  Slots exchanged(two.offset(), two.size());
  std::memcpy(exchanged.bytes(), two.bytes() + kPageSize, kPageSize);
  std::memcpy(exchanged.bytes() + kPageSize, two.bytes(), kPageSize);
  swap_.restore(exchanged);
  damaged.push_back(folios[1].page);
  damaged.push_back(folios[1].page + 1);

  // A write that never happened.
  Slots zeros(folios[2].offset + 15 * kPageSize, kPageSize);
  std::memset(zeros.bytes(), 0, kPageSize);
  swap_.restore(zeros);
  damaged.push_back(folios[2].page + 15);

  for (int pass = 0; pass < 3; ++pass) {
    for (std::size_t i = 0; i < victims_.pages.value; ++i) {
      const bool is_damaged = std::find(damaged.begin(), damaged.end(), i) != damaged.end();
      ASSERT_EQ(victims_.look(i), is_damaged ? Seen::bus : Seen::right) << "page " << i << " in pass " << pass;
    }
    EXPECT_EQ(others_.count(Seen::right), others_.pages.value);
  }
  EXPECT_EQ(read_errors(), errors + damaged.size());
  expect_nothing_written();
}

TEST_P(ReadFaultsTest, ALostPageThatIsDiscardedIsAsGoodAsNew) {
  prepare(4 * kMiB, 24 * kMiB);
  swap_.cut(0);
  std::vector<std::size_t> pages;
  for (std::size_t i = 0; i < victims_.pages.value; i += 3) {
    if (victims_.look(i) == Seen::bus) pages.push_back(i);
  }
  ASSERT_GT(pages.size(), 100U);
  for (const std::size_t page : pages) {
    discard(victims_, page, 1);
    ASSERT_EQ(victims_.page(page)[0], 0U);
    ASSERT_EQ(victims_.page(page)[Block::kWords - 1], 0U);
    victims_.write(page);
  }
  // The others' copies are gone with the file: what is written over them is all that is read from now on.
  discard(others_, 0, others_.pages.value);
  others_.seed += 1000000;
  others_.write();
  for (int pass = 0; pass < 2; ++pass) {
    for (const std::size_t page : pages) ASSERT_EQ(victims_.look(page), Seen::right);
    ASSERT_EQ(others_.count(Seen::right), others_.pages.value);
  }
}

TEST_P(ReadFaultsTest, MemoryWithLostPagesIsUsableAgainOnceFreed) {
  constexpr PageCount kSlack{64};  // staging grows where the disk is slow; a round loses 256 pages
  PageCount charged;
  for (std::uint64_t round = 0; round < 4; ++round) {
    prepare(kMiB, 24 * kMiB);
    if (round != 0) {
      swap_.cut(0);
      std::size_t lost = 0;
      for (std::size_t i = 0; i < victims_.pages.value; ++i) lost += victims_.look(i) == Seen::bus;
      EXPECT_EQ(lost, victims_.pages.value);
    }
    free(victims_);
    free(others_);
    manager_->heap().trim(cache_);
    // Reads that nobody waits for any more end, and staging is emptied, in the background.
    const auto settled = [&] {
      return manager_->statistics().reclaim.stored_pages.load() == 0 &&
             (round == 0 || manager_->budget().charged() <= charged + kSlack);
    };
    for (int i = 0; i < 60'000 && !settled(); ++i) usleep(1000);
    EXPECT_EQ(manager_->statistics().reclaim.stored_pages.load(), 0U) << "in round " << round;
    // Nothing tells that staging is empty but that nothing changes any more.
    for (int quiet = 0; round == 0 && quiet < 300; ++quiet) {
      usleep(1000);
      if (manager_->budget().charged() != charged) quiet = 0;
      charged = manager_->budget().charged();
    }
    EXPECT_LE(manager_->budget().charged(), charged + kSlack) << "in round " << round;
    manager_->verify();
  }
}

// Its thread might have kept it, now that nothing is evicted any more.
TEST_P(ReadFaultsTest, ASpanWithLostPagesIsUsableAgainOnceFreedWithoutALimit) {
  constexpr std::size_t kSize = std::size_t{128} << 10;
  prepare(kSize, 24 * kMiB);
  swap_.cut(0);
  for (std::size_t i = 0; i < victims_.pages.value; ++i) EXPECT_EQ(victims_.look(i), Seen::bus);
  EXPECT_TRUE(manager_->set_memory_limit(0).ok());
  free(victims_);
  void* const again = manager_->heap().allocate(cache_, kSize);
  ASSERT_NE(again, nullptr);
  std::memset(again, 1, kSize);
  manager_->heap().free(cache_, again);
  manager_->verify();
}

// The child's reads go to the same file, through its own pager.
TEST_P(ReadFaultsTest, AForkedChildMeetsTheSameLossesAsItsParent) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the thread sanitizer does not survive threads in forked children";
#endif
  prepare(4 * kMiB, 24 * kMiB);
  const std::vector<Target> folios = targets();
  ASSERT_GE(folios.size(), 2U);
  const std::size_t lost = folios[0].page + 3;
  const std::size_t damaged = folios[1].page + 3;
  const Slots tail = swap_.save(offset_of(victims_, lost), end_of_swap());
  swap_.cut(tail.offset());
  ASSERT_EQ(victims_.look(lost), Seen::bus);
  swap_.restore(tail);
  Slots slot = swap_.save(offset_of(victims_, damaged), offset_of(victims_, damaged) + kPageSize);
  slot.bytes()[100] = static_cast<char>(slot.bytes()[100] ^ 0x10);
  swap_.restore(slot);

  const auto as_expected = [&] {
    return victims_.look(lost) == Seen::bus && victims_.look(damaged) == Seen::bus &&
           victims_.count(Seen::right) == victims_.pages.value - 2 && others_.count(Seen::right) == others_.pages.value;
  };
  manager_->fork_prepare();
  const pid_t child = test::fork_while_others_sleep();
  if (child == 0) {
    alarm(kWatchdogSeconds);
    manager_->fork_child(cache_);
    _exit(as_expected() ? 0 : 1);
  }
  manager_->fork_parent();
  EXPECT_TRUE(as_expected());
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

// A marker is put in place when somebody comes for it, and then the stream is read on.
TEST_P(ReadFaultsTest, AStreamThatIsReadAheadOfFindsEveryPageRight) {
  for (const bool up : {true, false}) {
    prepare(8 * kMiB, 24 * kMiB);
    make_room();
    const std::uint64_t ahead = manager_->statistics().pager.fills_readahead.load();
    const std::uint64_t faults = manager_->statistics().pager.faults.load();
    const std::size_t pages = victims_.pages.value;
    for (std::size_t i = 0; i < pages; ++i) ASSERT_EQ(victims_.look(up ? i : pages - 1 - i), Seen::right) << i << up;
    EXPECT_GT(manager_->statistics().pager.fills_readahead.load() - ahead, pages / 2) << up;
    EXPECT_LT(manager_->statistics().pager.faults.load() - faults, pages / 4) << up;
    expect_nothing_written();
    free(victims_);
    free(others_);
  }
}

// Whoever waits for a page to leave its transition does not wait for a stream that has ended.
TEST_P(ReadFaultsTest, AMarkerThatNobodyComesForIsPutInPlace) {
  prepare(4 * kMiB, 24 * kMiB);
  make_room();
  for (std::size_t i = 0; i < 12; ++i) ASSERT_EQ(victims_.look(i), Seen::right);
  EXPECT_GT(manager_->statistics().pager.fills_readahead.load(), 0U);
  const auto settled = [this](std::size_t i) { return word_of(victims_, i).state() != PageState::filling; };
  while (!all_of(victims_, settled)) os::yield_cpu();
  EXPECT_EQ(victims_.count(Seen::right), victims_.pages.value);
}

// Freed while reads ahead of its last touch are under way: what becomes of them is no concern of the next owner.
TEST_P(ReadFaultsTest, ReadsThatFailAfterTheirMemoryWasFreedDoNotHurtItsNextOwner) {
  constexpr std::size_t kPages = 64;
  constexpr std::size_t kAskedFor = 33;  // windows of 1, 1, 2, 4, 8, 16: the touch of the last reads the rest
  prepare(kMiB, 24 * kMiB);
  std::vector<Block> blocks;
  for (std::uint64_t i = 0; i < 64; ++i) blocks.push_back(make(kPages * kPageSize, 10 + i));
  for (int pass = 0; pass < 3; ++pass) {
    for (const Block& block : blocks) ASSERT_EQ(block.count(Seen::right), kPages);
    ASSERT_EQ(others_.count(Seen::right), others_.pages.value);
  }
  make_room();
  std::size_t reused = 0;
  std::size_t in_flight = 0;
  std::size_t killed = 0;
  for (Block& block : blocks) {
    if (!all_of(block, [&](std::size_t i) { return is_stored(block, i); })) continue;
    for (std::size_t i = kAskedFor; i < kPages; ++i) {
      Slots slot(offset_of(block, i), kPageSize);
      std::memset(slot.bytes(), 0x5A, kPageSize);
      swap_.restore(slot);
    }
    for (std::size_t i = 0; i < kAskedFor; ++i) ASSERT_EQ(block.look(i), Seen::right);
    std::uint64_t* const words = block.words;
    manager_->heap().free(cache_, words);
    block.words = static_cast<std::uint64_t*>(manager_->heap().allocate(cache_, kPages * kPageSize));
    ASSERT_NE(block.words, nullptr);
    reused += block.words == words;
    for (std::size_t i = kAskedFor; i < kPages; ++i) in_flight += word_of(block, i).state() == PageState::filling;
    killed += raises_bus([&] { block.write(); });
  }
  EXPECT_EQ(killed, 0U) << "of " << reused << " blocks, " << in_flight << " pages of them being read";
}

INSTANTIATE_TEST_SUITE_P(Backends, ReadFaultsTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder