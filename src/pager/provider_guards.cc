// The provider's part in hardening: inaccessible pages, and zeros.
#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/message.h"
#include "os/mapping.h"
#include "pager/provider.h"

namespace polder {
namespace {

PageCount to_block_end(PageId page) { return first_page(block_of(page) + BlockCount{1}) - page; }

}  // namespace

void Provider::zero(Run run) {
  for (PageId page = run.first; page < run.end(); ++page) {
    const bool managed = parts_.blocks.mode(block_of(page)) == BlockMode::managed;
    if (managed && parts_.table.load(page).state() != PageState::resident && drop_page(page, Exactness::at_once)) {
      continue;
    }
    std::memset(parts_.arena.address(page), 0, kPageSize);
  }
}

bool Provider::guard(Run run) {
  if (!ensure_described(run)) return false;
  Errno refusal;
  for (PageId page = run.first; page < run.end();) {
    const Run piece{page, std::min(run.end() - page, to_block_end(page))};
    if (const Errno error = guard_piece(piece); !error.ok()) refusal = error;
    page = piece.end();
  }
  if (!refusal.ok() && !guards_missed_.exchange(true, std::memory_order_relaxed)) {
    say(Message().text("hardened, but without guard pages where the kernel has none: ").error(refusal.code()));
  }
  return refusal.ok();
}

Errno Provider::guard_piece(Run piece) {
  {
    const os::MutexLock lock(parts_.blocks.mutex());
    if (parts_.blocks.mode(block_of(piece.first)) != BlockMode::managed) return guard_unmanaged_locked(piece);
  }
  // The words first, so that nobody fills the pages; who touches one before the kernel knows tries again until it does.
  drop_managed(piece, Exactness::at_once);
  for (PageId page = piece.first; page < piece.end(); ++page) {
    PageWord word;
    while (!parts_.table.transition(page, word, PageWord::of(PageState::guard))) {
      POLDER_CHECK(word.state() != PageState::guard, "page is made a guard once", page.value);
      drop_managed({page, {1}}, Exactness::at_once);
      word = PageWord{};
    }
  }
  const Errno error = os::install_guards(parts_.arena.address(piece.first), bytes(piece.pages));
  if (!error.ok()) {
    static_cast<void>(os::remove_guards(parts_.arena.address(piece.first), bytes(piece.pages)));
    for (PageId page = piece.first; page < piece.end(); ++page) parts_.table.set_unshared(page, PageWord{});
  }
  return error;
}

Errno Provider::guard_unmanaged_locked(Run piece) {
  if (parts_.blocks.mode(block_of(piece.first)) == BlockMode::native) drop_native(piece);
  const Errno error = os::install_guards(parts_.arena.address(piece.first), bytes(piece.pages));
  if (!error.ok()) {
    static_cast<void>(os::remove_guards(parts_.arena.address(piece.first), bytes(piece.pages)));
    return error;
  }
  for (PageId page = piece.first; page < piece.end(); ++page) {
    parts_.table.set_unshared(page, PageWord::of(PageState::guard));
  }
  parts_.blocks.add_described_locked(block_of(piece.first), static_cast<std::int64_t>(piece.pages.value));
  return kOk;
}

bool Provider::unguard(Run run) {
  bool whole = true;
  for (PageId page = run.first; page < run.end();) {
    const Run piece{page, std::min(run.end() - page, to_block_end(page))};
    whole = unguard_piece(piece) && whole;
    page = piece.end();
  }
  return whole;
}

// With the lock, so that a native block is not converted between the kernel's guards and the words'.
bool Provider::unguard_piece(Run piece) {
  bool whole = true;
  if (!parts_.blocks.known(block_of(piece.first))) return false;
  const os::MutexLock lock(parts_.blocks.mutex());
  for (PageId page = piece.first; page < piece.end();) {
    PageId end = page;
    while (end < piece.end() && parts_.table.load(end).state() == PageState::guard) ++end;
    if (end == page) {
      whole = false;
      ++page;
      continue;
    }
    const Errno error = os::remove_guards(parts_.arena.address(page), bytes(end - page));
    POLDER_CHECK(error.ok(), "guards can be removed", error.code(), page.value);
    if (parts_.blocks.mode(block_of(page)) != BlockMode::managed) {
      parts_.blocks.add_described_locked(block_of(page), -static_cast<std::int64_t>((end - page).value));
    }
    for (; page < end; ++page) parts_.table.set_unshared(page, PageWord{});
  }
  return whole;
}

}  // namespace polder
