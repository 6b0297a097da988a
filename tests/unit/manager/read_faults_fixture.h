// A manager whose swap reads can be made to fail, memory whose every word is known, and touches that survive SIGBUS.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string_view>
#include <vector>

#include "base/message.h"
#include "unit/manager/manager_fixture.h"
#include "unit/manager/swap_damage.h"

namespace polder {

inline constexpr std::size_t kLimit = 16 * kMiB;

enum class Seen { right, wrong, bus };

inline thread_local sigjmp_buf after_bus;
inline thread_local volatile std::sig_atomic_t touching = 0;

inline void on_bus(int /*signal*/) {
  if (touching == 0) abort();
  siglongjmp(after_bus, 1);
}

// Runs `touch` and tells whether SIGBUS ended it.
template <typename Touch>
bool raises_bus(Touch touch) {
  if (sigsetjmp(after_bus, 1) != 0) {
    touching = 0;
    return true;
  }
  touching = 1;
  touch();
  touching = 0;
  return false;
}

// Pages of one run whose every word is known.
struct Block {
  std::uint64_t* words = nullptr;
  PageCount pages;
  std::uint64_t seed = 0;

  static constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);

  std::uint64_t* page(std::size_t index) const { return words + index * kWords; }
  std::uint64_t word(std::size_t index) const {
    std::uint64_t value = seed + index * 0x9E3779B97F4A7C15;
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
    return value ^ (value >> 27);
  }
  void write(std::size_t index) const {
    for (std::size_t i = 0; i < kWords; ++i) page(index)[i] = word(index * kWords + i);
  }
  void write() const {
    for (std::size_t i = 0; i < pages.value; ++i) write(i);
  }
  Seen look(std::size_t index) const {
    volatile bool right = true;
    const bool bus = raises_bus([&] {
      for (std::size_t i = 0; i < kWords; ++i) {
        if (page(index)[i] != word(index * kWords + i)) right = false;
      }
    });
    return bus ? Seen::bus : right ? Seen::right : Seen::wrong;
  }
  // How many of its pages look like that.
  std::size_t count(Seen seen) const {
    std::size_t result = 0;
    for (std::size_t i = 0; i < pages.value; ++i) result += look(i) == seen;
    return result;
  }
};

// A folio of the victims, all of it in consecutive slots.
struct Target {
  std::size_t page = 0;  // its first, in the block
  std::uint64_t offset = 0;
};

class ReadFaultsTest : public ManagerFixture {
 protected:
  void SetUp() override {
    ManagerFixture::SetUp();
    if (IsSkipped()) return;
    std::signal(SIGBUS, on_bus);
    // Thousands of pages are lost on purpose; what else is said is wanted.
    set_message_sink([](const char* text, std::size_t length) {
      if (std::string_view(text, length).find(" is lost: ") != std::string_view::npos) return;
      [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, text, length);
    });
    start(kLimit);
  }
  void TearDown() override {
    ManagerFixture::TearDown();
    std::signal(SIGBUS, SIG_DFL);
  }

  Block make(std::size_t size, std::uint64_t seed) {
    void* const memory = manager_->heap().allocate(cache_, size);
    EXPECT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory) % kFolioSize, 0U);
    const Block block{static_cast<std::uint64_t*>(memory), pages_down(size), seed << 40};
    block.write();
    return block;
  }
  void free(Block& block) {
    manager_->heap().free(cache_, block.words);
    block.pages = {};
  }
  void discard(const Block& block, std::size_t page, std::size_t count) {
    manager_->program_discard(block.page(page), count * kPageSize);
  }

  PageWord word_of(const Block& block, std::size_t page) {
    return manager_->pager().table().load(manager_->arena().page_of(block.page(page)));
  }
  bool is_stored(const Block& block, std::size_t page) { return word_of(block, page).state() == PageState::stored; }
  bool has_stored_copy(const Block& block, std::size_t page) {
    return is_stored(block, page) || word_of(block, page).retained();
  }
  template <typename Holds>
  static bool all_of(const Block& block, Holds holds) {
    for (std::size_t i = 0; i < block.pages.value; ++i) {
      if (!holds(i)) return false;
    }
    return true;
  }
  // Precondition: stored or retained.
  std::uint64_t offset_of(const Block& block, std::size_t page) {
    return Store::offset(Location::from_bits(word_of(block, page).location()));
  }

  // Victims that are all stored, and others whose every page has a stored copy: nothing is written from then on.
  void prepare(std::size_t victims, std::size_t others) {
    others_ = make(others, 1);
    victims_ = make(victims, 2);
    store_everything();
    const PageWord word = word_of(victims_, 0);
    ASSERT_TRUE(swap_.open_file_of(manager_->pager().store(), Location::from_bits(word.location())));
  }
  // Touches the others until nothing else stays in memory: what was stored once has a copy from then on, and nobody
  // touches the victims. In another order each time: memory that is read round and round is best served by keeping a part
  // of it, always the same, and the policy does.
  void store_everything() {
    std::vector<std::size_t> folios;
    for (std::size_t first = 0; first < others_.pages.value; first += kPagesPerFolio) folios.push_back(first);
    std::mt19937 random(1);
    ASSERT_EQ(victims_.count(Seen::right), victims_.pages.value);
    for (int pass = 0;; ++pass) {
      ASSERT_LT(pass, 100) << "pages stay in memory";
      for (const std::size_t first : folios) {
        for (std::size_t i = first; i < first + kPagesPerFolio; ++i) ASSERT_EQ(others_.look(i), Seen::right) << i;
      }
      if (all_of(victims_, [this](std::size_t i) { return is_stored(victims_, i); }) &&
          all_of(others_, [this](std::size_t i) { return has_stored_copy(others_, i); })) {
        break;
      }
      std::shuffle(folios.begin(), folios.end(), random);
    }
    written_ = manager_->statistics().reclaim.bytes_written.load();
  }
  // Gives the fault loop all the room it wants.
  void make_room() { discard(others_, 0, others_.pages.value); }

  // From the end of the file to its beginning: who takes the next one may leave off what was behind it.
  std::vector<Target> targets() {
    std::vector<Target> result;
    for (std::size_t first = 0; first < victims_.pages.value; first += kPagesPerFolio) {
      const std::uint64_t offset = offset_of(victims_, first);
      bool consecutive = true;
      for (std::size_t i = 0; i < kPagesPerFolio; ++i) {
        consecutive &= offset_of(victims_, first + i) == offset + i * kPageSize;
      }
      if (consecutive) result.push_back({first, offset});
    }
    std::sort(result.begin(), result.end(), [](const Target& a, const Target& b) { return a.offset > b.offset; });
    return result;
  }
  bool is_stored(const Target& target) {
    for (std::size_t i = 0; i < kPagesPerFolio; ++i) {
      if (!is_stored(victims_, target.page + i)) return false;
    }
    return true;
  }
  // Where the last stored page ends.
  std::uint64_t end_of_swap() {
    std::uint64_t end = 0;
    for (const Block* block : {&victims_, &others_}) {
      for (std::size_t i = 0; i < block->pages.value; ++i) {
        if (has_stored_copy(*block, i)) end = std::max(end, offset_of(*block, i) + kPageSize);
      }
    }
    return end;
  }

  std::uint64_t read_errors() { return manager_->statistics().pager.read_errors.load(); }
  void expect_nothing_written() { EXPECT_EQ(manager_->statistics().reclaim.bytes_written.load(), written_); }

  Block others_;
  Block victims_;
  SwapDamage swap_;
  std::uint64_t written_ = 0;
};

}  // namespace polder
