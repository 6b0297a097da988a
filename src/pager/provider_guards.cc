// The provider's part in hardening: inaccessible pages, and zeros.
#include <cstring>

#include "base/check.h"
#include "base/message.h"
#include "os/mapping.h"
#include "pager/provider.h"

namespace polder {

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
    const Run piece = piece_of(run, page);
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
      word = parts_.table.load(page);
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
  if (parts_.blocks.mode(block_of(piece.first)) == BlockMode::native) drop_native_now_locked(piece);
  const Errno error = os::install_guards(parts_.arena.address(piece.first), bytes(piece.pages));
  if (!error.ok()) {
    static_cast<void>(os::remove_guards(parts_.arena.address(piece.first), bytes(piece.pages)));
    return error;
  }
  parts_.blocks.native_pages_locked(block_of(piece.first)).make_guards(piece);
  return kOk;
}

bool Provider::unguard(Run run) {
  bool whole = true;
  for (PageId page = run.first; page < run.end();) {
    const Run piece = piece_of(run, page);
    whole = unguard_piece(piece) && whole;
    page = piece.end();
  }
  return whole;
}

// With the lock, so that a native block is not converted between the kernel's guards and the bits.
bool Provider::unguard_piece(Run piece) {
  const BlockId block = block_of(piece.first);
  if (!parts_.blocks.known(block)) return false;
  const os::MutexLock lock(parts_.blocks.mutex());
  const bool managed = parts_.blocks.mode(block) == BlockMode::managed;
  PageCount ended;
  for (Run rest = piece;;) {
    const Run guards = managed ? first_managed_guards(rest) : parts_.blocks.native_pages(block).first_guards(rest);
    if (guards.pages.value == 0) return ended == piece.pages;
    const Errno error = os::remove_guards(parts_.arena.address(guards.first), bytes(guards.pages));
    POLDER_CHECK(error.ok(), "guards can be removed", error.code(), guards.first.value);
    if (managed) {
      for (PageId page = guards.first; page < guards.end(); ++page) parts_.table.set_unshared(page, PageWord{});
    } else {
      parts_.blocks.native_pages_locked(block).end_guards(guards);
    }
    ended += guards.pages;
    rest = {guards.end(), rest.end() - guards.end()};
  }
}

Run Provider::first_managed_guards(Run run) const {
  const auto is_guard = [this](PageId page) { return parts_.table.load(page).state() == PageState::guard; };
  PageId first = run.first;
  while (first < run.end() && !is_guard(first)) ++first;
  PageId end = first;
  while (end < run.end() && is_guard(end)) ++end;
  return {first, end - first};
}

}  // namespace polder
