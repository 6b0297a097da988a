// The page table: one 8-byte atomic word per page of a managed block, and the state machine every such page goes through.
//
//   state      the page's bytes are…                                   who may leave the state
//   untouched  nowhere: reads as zero, not charged                     pager (fill)
//   resident   in the arena, charged                                   reclaimer (evict), purge, pager (found missing)
//   evicting   in the arena, about to be moved                         the reclaimer, or the purge, that put it there
//   staged     in a staging page, charged there                        pager (steal back), reclaimer (retire)
//   stored     in the store at location(), not charged                 pager (fill), discard
//   filling    on their way back (from source(): zero, staged, stored) the pager that put it there
//   lost       nowhere any more: unreadable; touching raises SIGBUS       discard, pager (found after all)
//   guard      nobody's, and must not be touched: raises SIGSEGV        the heap that put it there
//
//                                     evict            MOVE
//   untouched              resident ──────────► evicting ─────► staged ──────► stored
//       │ fill              ▲   ▲               │ refused       │ steal        │ fault
//       ▼                   │   └───────────────┘               ▼              ▼
//    filling ───────────────┴────────────────────────────── filling ◄──────────┘
//
// stored ─► untouched, and untouched ─► stored elsewhere: the owner moves a page to another address without reading it.
// untouched ◄─► guard: never charged. No page may be copied to a guard, which the kernel would let pass (measured on
// 6.18): whoever fills claims an untouched page first.
//
// Every change is a compare-and-swap through transition(), which asserts the pair of states against one table. Of the pages
// of other blocks the bits of vm/native_pages.h tell; their words are never touched.
//
// The flags ride along: `retained` says that location() names a stored copy that was identical when it was last
// compared or read (clean eviction needs no write); `discarded` says that the owner freed the page while it was in
// transition or staged, so its bytes need not survive; `poisoning` says that a lost page is not unreadable yet: whoever
// would discard it waits, or the poison would meet its next owner; `streamed` says that the retained copy was read ahead of a
// sequential stream, which may want it so again. Words are atomic: read and changed by allocating
// threads, the pager and the reclaimer. Acquire on load pairs with release on transition: whoever sees `stored` sees the hash.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.h"
#include "vm/metadata.h"

namespace polder {

enum class PageState : std::uint8_t { untouched, resident, evicting, staged, stored, filling, lost, guard };
inline constexpr unsigned kPageStateCount = 8;

const char* name(PageState state);
bool is_legal(PageState from, PageState to);

// The value of a word. Layout, low to high:
//   3 state | 1 retained | 1 discarded | 3 source of a fill | 16 staging page | 1 poisoning | 1 streamed | 6 unused |
//   32 location
class PageWord {
 public:
  static constexpr std::uint32_t kNoLocation = 0xFFFFFFFF;
  static constexpr std::uint32_t kStagingPages = std::uint32_t{1} << 16;

  constexpr PageWord() = default;  // untouched
  constexpr explicit PageWord(std::uint64_t bits) : bits_(bits) {}
  static constexpr PageWord of(PageState state) { return PageWord(static_cast<std::uint64_t>(state)); }

  constexpr std::uint64_t bits() const { return bits_; }
  constexpr PageState state() const { return static_cast<PageState>(bits_ & 7); }
  constexpr bool retained() const { return (bits_ >> 3 & 1) != 0; }
  constexpr bool poisoning() const { return (bits_ >> 24 & 1) != 0; }
  constexpr bool streamed() const { return (bits_ >> 25 & 1) != 0; }
  constexpr bool discarded() const { return (bits_ >> 4 & 1) != 0; }
  // What a page that is being filled was before.
  constexpr PageState source() const { return static_cast<PageState>(bits_ >> 5 & 7); }
  constexpr std::uint32_t staging_page() const { return static_cast<std::uint32_t>(bits_ >> 8) & (kStagingPages - 1); }
  // Meaningful when stored, filling from stored, or retained.
  constexpr std::uint32_t location() const { return static_cast<std::uint32_t>(bits_ >> 32); }

  constexpr PageWord with_state(PageState state) const {
    return PageWord((bits_ & ~std::uint64_t{7}) | static_cast<std::uint64_t>(state));
  }
  constexpr PageWord with_poisoning() const { return PageWord(bits_ | 1U << 24); }
  constexpr PageWord without_poisoning() const { return PageWord(bits_ & ~(std::uint64_t{1} << 24)); }
  constexpr PageWord with_streamed() const { return PageWord(bits_ | 1U << 25); }
  constexpr PageWord with_discarded() const { return PageWord(bits_ | 1U << 4); }
  constexpr PageWord without_discarded() const { return PageWord(bits_ & ~(std::uint64_t{1} << 4)); }
  constexpr PageWord with_source(PageState state) const {
    return PageWord((bits_ & ~(std::uint64_t{7} << 5)) | static_cast<std::uint64_t>(state) << 5);
  }
  constexpr PageWord with_staging_page(std::uint32_t page) const {
    return PageWord((bits_ & ~(std::uint64_t{kStagingPages - 1} << 8)) | std::uint64_t{page} << 8);
  }
  constexpr PageWord with_retained(std::uint32_t location) const {
    return PageWord((bits_ & 0xFFFFFFFF) | 1U << 3 | std::uint64_t{location} << 32);
  }
  constexpr PageWord without_retained() const { return PageWord(bits_ & 0xFFFFFFFF & ~(std::uint64_t{1} << 3)); }
  constexpr PageWord with_location(std::uint32_t location) const {
    return PageWord((bits_ & 0xFFFFFFFF) | std::uint64_t{location} << 32);
  }

  constexpr bool operator==(const PageWord&) const = default;

 private:
  std::uint64_t bits_ = 0;
};

class PageTable {
 public:
  PageTable() = default;
  explicit PageTable(MetadataArray<std::atomic<std::uint64_t>> words) : words_(words) {}

  // Makes the words of pages [0, end) accessible. Callers serialise.
  Errno ensure(PageId end) { return words_.ensure(end.value); }

  PageWord load(PageId page) const { return PageWord(words_[page.value].load(std::memory_order_acquire)); }

  // Replaces `expected` by `desired` when the word still holds `expected`; else stores what it holds into `expected`
  // and returns false. Asserts that the table allows the step.
  bool transition(PageId page, PageWord& expected, PageWord desired);

  // For a page that nobody else changes: of a block in conversion, of a forked child that has no pager yet, a guard.
  void set_unshared(PageId page, PageWord desired);

 private:
  MetadataArray<std::atomic<std::uint64_t>> words_;
};

}  // namespace polder
