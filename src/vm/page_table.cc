#include "vm/page_table.h"

#include "base/check.h"

namespace polder {
namespace {

constexpr std::uint8_t bit(PageState state) { return static_cast<std::uint8_t>(1U << static_cast<unsigned>(state)); }

// Row: from. Bits: the states that may follow. A state may always follow itself: flags change in place.
constexpr std::uint8_t kNext[kPageStateCount] = {
    // untouched: filled with zeros, made inaccessible, or the new place of a stored page
    bit(PageState::filling) | bit(PageState::guard) | bit(PageState::stored),
    // resident: chosen by the reclaimer, or purged, or found missing
    bit(PageState::evicting) | bit(PageState::untouched) | bit(PageState::lost),
    // evicting: moved, or refused by the kernel, or found absent
    bit(PageState::staged) | bit(PageState::resident) | bit(PageState::untouched),
    // staged: stolen back, stored, or dropped because its owner freed it
    bit(PageState::filling) | bit(PageState::stored) | bit(PageState::untouched),
    // stored: read back, moved, or freed
    bit(PageState::filling) | bit(PageState::untouched),
    // filling: arrived, or given up (no room: back to where it was; unreadable: lost)
    bit(PageState::resident) | bit(PageState::untouched) | bit(PageState::staged) | bit(PageState::stored) |
        bit(PageState::lost),
    // lost: freed, or found after all
    bit(PageState::untouched) | bit(PageState::resident),
    // guard: accessible again
    bit(PageState::untouched),
};

}  // namespace

const char* name(PageState state) {
  constexpr const char* kNames[kPageStateCount] = {"untouched", "resident", "evicting", "staged",
                                                   "stored",    "filling",  "lost",     "guard"};
  return kNames[static_cast<unsigned>(state)];
}

bool is_legal(PageState from, PageState to) {
  return from == to || (kNext[static_cast<unsigned>(from)] & bit(to)) != 0;
}

bool PageTable::transition(PageId page, PageWord& expected, PageWord desired) {
  POLDER_CHECK(is_legal(expected.state(), desired.state()), "page state transition", page.value, expected.bits(),
               desired.bits());
  std::uint64_t bits = expected.bits();
  // Release publishes what the new state refers to (hash, staging contents); acquire sees the same of the old one.
  if (words_[page.value].compare_exchange_strong(bits, desired.bits(), std::memory_order_acq_rel,
                                                 std::memory_order_acquire)) {
    return true;
  }
  expected = PageWord(bits);
  return false;
}

void PageTable::set_unshared(PageId page, PageWord desired) {
  words_[page.value].store(desired.bits(), std::memory_order_release);
}

}  // namespace polder
