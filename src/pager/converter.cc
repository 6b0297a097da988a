#include "pager/converter.h"

#include <cerrno>

#include "base/check.h"
#include "base/fatal.h"
#include "os/mapping.h"

namespace polder {
namespace {

constexpr std::size_t kWordsPerBlock = kPagesPerBlock / 64;

bool is_set(const std::uint64_t* bits, std::uint32_t index) { return (bits[index / 64] >> (index % 64) & 1) != 0; }

}  // namespace

Errno Converter::scan(BlockId block, std::uint64_t* present) {
  return pagemap_.scan_present(parts_.arena.address(block), kBlockSize, present);
}

Errno Converter::convert_oldest() {
  const os::MutexLock lock(parts_.blocks.mutex());
  const std::optional<BlockId> block = parts_.blocks.oldest_native_locked();
  if (!block) return Errno(ENOENT);
  return convert_locked(*block);
}

Errno Converter::convert_range(BlockId first, BlockCount count) {
  for (BlockId block = first; block < first + count; ++block) {
    const os::MutexLock lock(parts_.blocks.mutex());
    if (parts_.blocks.mode(block) == BlockMode::managed) continue;
    const Errno error = convert_locked(block);
    if (!error.ok()) return error;
  }
  return kOk;
}

// Registered, and withheld from children that nobody is told of.
Errno Converter::begin_managing(BlockId block, std::uint64_t* present) {
  char* const address = parts_.arena.address(block);
  Errno error = parts_.uffd.register_missing(address, kBlockSize);
  if (!error.ok()) return error;
  error = scan(block, present);
  if (error.ok()) error = os::set_inheritance(address, kBlockSize, os::Inheritance::nothing);
  if (error.ok()) return kOk;
  static_cast<void>(os::set_inheritance(address, kBlockSize, os::Inheritance::copied));
  static_cast<void>(parts_.uffd.unregister(address, kBlockSize));
  return error;
}

Errno Converter::convert_locked(BlockId block) {
  parts_.blocks.begin_conversion_locked(block);
  std::uint64_t present[kWordsPerBlock] = {};
  if (const Errno error = begin_managing(block, present); !error.ok()) {
    parts_.blocks.cancel_conversion_locked(block);
    parts_.wakeups.pages_settled();
    return error;
  }
  const NativePages& pages = parts_.blocks.native_pages(block);
  PageCount absent;
  for (std::uint32_t i = 0; i < kPagesPerBlock; ++i) {
    const PageId page = first_page(block) + PageCount{i};
    if (pages.is_guard(page)) {
      parts_.table.set_unshared(page, PageWord::of(PageState::guard));
    } else if (is_set(present, i)) {
      parts_.table.set_unshared(page, PageWord::of(PageState::resident));
      // Written beyond what was handed out: the program's bug, but its bytes are in memory and must be paid for.
      if (!pages.is_resident(page)) parts_.budget.charge_always(PageCount{1});
    } else if (pages.is_resident(page)) {
      absent += PageCount{1};
    }
  }
  parts_.blocks.end_conversion_locked(block);
  for (std::uint32_t i = 0; i < kFoliosPerBlock; ++i) {
    const std::uint32_t first = i * kPagesPerFolio;
    if (const auto there = static_cast<PageMask>(present[first / 64] >> (first % 64)); there != 0) {
      parts_.policy.arrived(FolioId{block.value * kFoliosPerBlock + i}, there, Arrival::converted);
    }
  }
  parts_.budget.uncharge(absent);
  parts_.wakeups.pages_settled();
  if (absent.value != 0) parts_.wakeups.room_changed();
  return kOk;
}

Errno Converter::hand_on_managed_locked() { return set_inheritance_locked(os::Inheritance::copied); }

// Whole mappings, as native blocks are others: nothing that could be refused.
void Converter::withhold_managed_locked() { static_cast<void>(set_inheritance_locked(os::Inheritance::nothing)); }

// Of all managed blocks; the first error.
Errno Converter::set_inheritance_locked(os::Inheritance inheritance) {
  const BlockCount known = parts_.blocks.known_blocks();
  const auto is_managed = [this](BlockId block) { return parts_.blocks.mode(block) == BlockMode::managed; };
  Errno first = kOk;
  for (BlockId block{0}; block.value < known.value; ++block) {
    const BlockId begin = block;
    while (block.value < known.value && is_managed(block)) ++block;
    if (begin == block) continue;
    const Errno error =
        os::set_inheritance(parts_.arena.address(begin), (block - begin).value * kBlockSize, inheritance);
    // What the program has unmapped itself is nobody's.
    if (first.ok() && error != Errno(ENOMEM)) first = error;
  }
  return first;
}

Errno Converter::adopt_in_child() {
  const BlockCount known = parts_.blocks.known_blocks();
  PageCount resident;
  for (BlockId block{0}; block.value < known.value; ++block) {
    const BlockMode mode = parts_.blocks.mode(block);
    POLDER_CHECK(mode != BlockMode::converting, "no block is converted while the process forks", block.value);
    if (mode == BlockMode::managed) {
      const Errno error = parts_.uffd.register_missing(parts_.arena.address(block), kBlockSize);
      if (!error.ok()) return error;
      std::uint64_t present[kWordsPerBlock] = {};
      const Errno scanned = scan(block, present);
      if (!scanned.ok()) return scanned;
      resident += adopt_block(block, present);
    } else if (mode == BlockMode::native) {
      resident += parts_.blocks.native_pages(block).resident();
    }
  }
  parts_.budget.charge_always(resident);
  const os::MutexLock lock(parts_.blocks.mutex());
  withhold_managed_locked();
  return kOk;
}

PageCount Converter::adopt_block(BlockId block, const std::uint64_t* present) {
  PageCount resident;
  for (std::uint32_t i = 0; i < kPagesPerBlock; ++i) {
    const PageId page = first_page(block) + PageCount{i};
    PageWord word = parts_.table.load(page);
    if (word.state() == PageState::evicting) {
      // The evictor stands still: a purge's claim, whose thread does not exist here. Its reference is given up already.
      word = PageWord::of(is_set(present, i) ? PageState::resident : PageState::untouched);
      parts_.table.set_unshared(page, word);
    } else if (word.state() == PageState::filling) {
      // The parent's pager was amid a fill. It happened before the fork, or it did not: the kernel knows.
      const PageState source = word.source();
      if (!is_set(present, i)) {
        word = word.with_state(source);
      } else if (source == PageState::stored && !Location::from_bits(word.location()).is_pattern()) {
        word = PageWord::of(PageState::resident).with_retained(word.location());
      } else {
        word = word.retained() ? PageWord::of(PageState::resident).with_retained(word.location())
                               : PageWord::of(PageState::resident);
      }
      parts_.table.set_unshared(page, word);
    } else if (word.state() == PageState::resident && !is_set(present, i)) {
      report_touched_before_child_pager(parts_.arena.address(page));
    } else if (is_set(present, i) && word.state() != PageState::resident && word.state() != PageState::lost &&
               word.state() != PageState::guard) {
      report_touched_before_child_pager(parts_.arena.address(page));
    }
    if (word.state() == PageState::lost) {
      // The parent's pager, amid poisoning, would find what the kernel has found; poison itself is not inherited.
      if (word.poisoning() && is_set(present, i)) {
        word = PageWord::of(PageState::resident);
      } else {
        word = word.without_poisoning();
        static_cast<void>(parts_.uffd.poison(parts_.arena.address(page), kPageSize));
      }
      parts_.table.set_unshared(page, word);
    }
    switch (word.state()) {
      case PageState::resident:
        resident += PageCount{1};
        parts_.policy.arrived(folio_of(page), mask_of(page, 1), Arrival::converted);
        if (word.retained()) parts_.store.recount(Location::from_bits(word.location()));
        break;
      case PageState::stored:
        parts_.store.recount(Location::from_bits(word.location()));
        break;
      case PageState::staged:
        if (word.retained()) parts_.store.recount(Location::from_bits(word.location()));
        break;
      case PageState::untouched:
      case PageState::lost:
      case PageState::guard:
        break;
      case PageState::evicting:
      case PageState::filling:
        POLDER_CHECK(false, "no page is in transition in a forked child", page.value, word.bits());
    }
  }
  return resident;
}

}  // namespace polder
