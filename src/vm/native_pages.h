// What is known of the pages of a pageblock that is unused or native: two bits a page in place of words of the page table,
// which such a block does not have. 128 bytes for 2 MiB in place of 4 KiB.
//
//   resident  used   the page is
//      0       0     untouched: reads as zero, not charged
//      1       0     fresh: charged, handed out for the first time since it was last dropped; read as zero when it was
//      1       1     settled: charged, and may hold what an earlier owner left
//      0       1     a guard: nobody's, and must not be touched
//
//   untouched ──provide──► fresh ──settle──► settled          fresh, settled ──drop──► untouched ◄──► guard
//
// Runs are given by their pages' ids and lie within the block. Written under the pageblocks' mutex. Atomic: an owner of
// pages reads the bits of its own without, which nobody else changes.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include "vm/run.h"

namespace polder {

class NativePages {
 public:
  bool is_resident(PageId page) const { return is_set(resident_, page); }
  bool is_fresh(PageId page) const { return is_set(resident_, page) && !is_set(used_, page); }
  bool is_guard(PageId page) const { return !is_set(resident_, page) && is_set(used_, page); }

  // All of the block.
  bool all_untouched() const;
  bool all_resident() const;
  PageCount resident() const;

  PageCount untouched(Run run) const;
  bool has_used(Run run) const;  // settled ones or guards
  // The first stretch of resident pages, or of guards; empty, at the run's end, where there is none.
  Run first_resident(Run run) const;
  Run first_guards(Run run) const;

  void provide(Run run);      // untouched pages become fresh
  void settle(Run run);       // fresh pages become settled
  void drop(Run run);         // resident pages become untouched
  void make_guards(Run run);  // precondition: untouched pages
  void end_guards(Run run);   // precondition: guards

 private:
  static constexpr unsigned kWords = kPagesPerBlock / 64;
  using Bits = std::array<std::atomic<std::uint64_t>, kWords>;

  static std::uint64_t load(const Bits& bits, unsigned word) { return bits[word].load(std::memory_order_relaxed); }
  static void store(Bits& bits, unsigned word, std::uint64_t value) {
    bits[word].store(value, std::memory_order_relaxed);
  }
  static bool is_set(const Bits& bits, PageId page) {
    const std::uint32_t index = page.value % kPagesPerBlock;
    return (load(bits, index / 64) >> (index % 64) & 1) != 0;
  }
  // Calls visit(word, mask) for the words that have bits of the run.
  template <typename Visit>
  static void for_each_word(Run run, Visit visit);
  // The first stretch of pages for which word_of has bits set.
  template <typename WordOf>
  static Run first_stretch(Run run, WordOf word_of);

  Bits resident_;
  Bits used_;
};

}  // namespace polder
