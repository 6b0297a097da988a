// Same-filled pages: a page that repeats one 64-bit word is stored as that word. The table keeps the distinct words and
// how many stored pages refer to each.
//
//   owns        64 KiB, mapped and charged to the budget with the first word
//   threads     add(): the reclaimer only. word(), reference(), release(): any thread that holds a reference to the
//               entry; lock-free, no system call
//   invariants  a word stands in at most one entry; an entry with references never changes its word; an entry whose
//               count fell to zero keeps its word until add() needs the place
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "base/errno.h"
#include "base/units.h"

namespace polder {

class Budget;

// The word that the page repeats, if it does. Reads kPageSize bytes, aligned to 8.
std::optional<std::uint64_t> same_filled(const void* page);

class PatternTable {
 public:
  static constexpr std::uint32_t kCapacity = 4096;

  explicit PatternTable(Budget& budget) : budget_(budget) {}
  ~PatternTable();
  PatternTable(const PatternTable&) = delete;
  PatternTable& operator=(const PatternTable&) = delete;

  // The entry of `word` with one more reference. Empty when every entry is referenced by other words, or when there is
  // no memory for the table.
  std::optional<std::uint32_t> add(std::uint64_t word);

  std::uint64_t word(std::uint32_t entry) const;
  void reference(std::uint32_t entry);
  // Asserts that the entry has a reference.
  void release(std::uint32_t entry);

  // Forked child, while it has one thread: all counts become zero, then recount() adds one reference at a time.
  void clear_counts();
  void recount(std::uint32_t entry);

  struct Statistics {
    std::uint32_t words = 0;       // entries with references
    std::uint64_t references = 0;  // stored pages
  };
  // A snapshot that concurrent references and releases may blur.
  Statistics statistics() const;
  // Checks the invariants; reclaimer only.
  void verify() const;

 private:
  static constexpr std::uint32_t kIndexSize = 2 * kCapacity;  // power of two, at most half full
  static constexpr std::uint32_t kMaxReferences = 0xFFFFFFFF;

  struct Tables {
    std::uint64_t words[kCapacity];                // written by add() while the entry has no reference
    std::atomic<std::uint32_t> counts[kCapacity];  // atomic: released by any thread
    std::uint16_t index[kIndexSize];               // open addressing: entry + 1, 0 empty; add() only
  };

  static std::uint32_t home(std::uint64_t word);
  std::optional<std::uint32_t> find(std::uint64_t word) const;
  void insert(std::uint32_t entry);
  bool drop_unreferenced();

  Budget& budget_;
  Tables* tables_ = nullptr;     // set by the first add(), before any entry is published
  std::uint32_t used_ = 0;       // entries that are in the index; add() only
  std::uint32_t free_hint_ = 0;  // where the search for a free entry starts; add() only
  // Bit per entry that is in the index. add() only.
  std::uint64_t occupied_[kCapacity / 64] = {};
};

}  // namespace polder
