#include "pager/relocator.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "os/mapping.h"
#include "os/thread.h"
#include "pager/block_words.h"

namespace polder {
namespace {

PageCount to_block_end(PageId page) { return first_page(block_of(page) + BlockCount{1}) - page; }

bool is_for_good(Errno error) {
  return error == Errno(EOPNOTSUPP) || error == Errno(ENOSYS) || error == Errno(EPERM) || error == Errno(EACCES);
}

// A page in whose place there is one already: either it moved, and the kernel reports it as its own obstacle, or it did
// not. Only who knows which may go on.
void require_present(os::Userfaultfd& mover, const void* page) {
  constexpr unsigned kTries = 256;  // the kernel may have no memory for the answer
  os::Presence presence = mover.presence(page);
  for (unsigned tries = 0; presence == os::Presence::unknown && tries < kTries; ++tries) {
    os::yield_cpu();
    presence = mover.presence(page);
  }
  POLDER_CHECK(presence == os::Presence::present, "page that was not moved is where it was", page);
}

}  // namespace

bool Relocator::open(os::Userfaultfd& mover) {
  if (refused_.load(std::memory_order_relaxed)) return false;
  const Errno error = mover.open_for_moves();
  if (is_for_good(error)) refused_.store(true, std::memory_order_relaxed);
  return error.ok();
}

// The end when there is none. Of pages that are the caller's alone: what is read is true but in managed blocks, of which
// nothing is moved anyway. Of blocks that are not even described no page was ever provided.
PageId Relocator::first_resident(Run run) const {
  for (PageId page = run.first; page < run.end() && parts_.blocks.known(block_of(page)); ++page) {
    if (parts_.blocks.words(block_of(page)) != BlockWords::own) return page;
    if (parts_.table.load(page).state() == PageState::resident) return page;
  }
  return run.end();
}

// To move parts of huge pages costs more than to touch new ones. Under a limit there are none.
bool Relocator::may_be_huge() const {
  return !parts_.budget.limited() && os::huge_page_mode() == os::HugePageMode::unasked;
}

PageCount Relocator::recycle(DirtySource& source, Run to) {
  os::Userfaultfd mover;
  if (may_be_huge() || !open(mover)) return {0};
  PageCount done;
  while (done < to.pages) {
    const std::optional<Run> from = source.take(to.pages - done);
    if (!from) break;
    const PageCount gone = recycle_run(mover, *from, {to.first + done, to.pages - done});
    source.give_back(*from, gone);
    if (gone.value == 0) break;
    done += gone;
  }
  return done;
}

PageCount Relocator::recycle_run(os::Userfaultfd& mover, Run from, Run to) {
  PageCount done;
  while (done < to.pages) {
    const PageId source = first_resident(from);
    if (source == from.end()) break;
    const PageId target = to.first + done;
    const PageCount length =
        std::min({from.end() - source, to.pages - done, to_block_end(source), to_block_end(target)});
    const PageCount moved = relocate_piece(mover, {source, length}, target);
    if (moved.value == 0) break;
    done += moved;
    from = {source + moved, from.end() - (source + moved)};
  }
  return done;
}

PageCount Relocator::relocate(Run from, PageId to) {
  os::Userfaultfd mover;
  if (!open(mover)) return {0};
  PageCount done;
  while (done < from.pages) {
    const PageId source = from.first + done;
    const PageId target = to + done;
    const PageCount length = std::min({from.pages - done, to_block_end(source), to_block_end(target)});
    const PageCount moved = relocate_piece(mover, {source, length}, target);
    done += moved;
    if (moved < length) break;
  }
  return done;
}

// Of one block into one block.
PageCount Relocator::relocate_piece(os::Userfaultfd& mover, Run from, PageId to) {
  const os::MutexLock lock(parts_.blocks.mutex());
  if (parts_.blocks.mode(block_of(from.first)) != BlockMode::native) return {0};
  if (parts_.blocks.mode(block_of(to)) != BlockMode::native) return {0};
  if (parts_.blocks.is_huge_locked(block_of(from.first)) || parts_.blocks.is_huge_locked(block_of(to))) return {0};

  write_words_locked(parts_, block_of(from.first));
  write_words_locked(parts_, block_of(to));
  PageCount length;
  while (length < from.pages && parts_.table.load(from.first + length).state() == PageState::resident &&
         parts_.table.load(to + length).fresh()) {
    ++length.value;
  }
  void* const target = parts_.arena.address(to);
  if (length.value == 0 || !mover.register_missing(target, bytes(length)).ok()) return {0};
  const os::Progress progress =
      mover.move(target, parts_.arena.address(from.first), bytes(length), os::Userfaultfd::Wake::no);
  // Fails only when the program closed the descriptor under our hands, which unregisters too.
  static_cast<void>(mover.unregister(target, bytes(length)));

  const PageCount moved = pages_down(progress.done);
  if (progress.error == Errno(EEXIST)) require_present(mover, parts_.arena.address(from.first + moved));
  std::int64_t unsettled = 0;
  for (PageCount page; page < moved; ++page.value) {
    unsettled += !parts_.table.load(from.first + page).fresh();
    parts_.table.set_unshared(from.first + page, PageWord{});
    parts_.table.set_unshared(to + page, PageWord::of(PageState::resident));
  }
  parts_.blocks.add_settled_locked(block_of(from.first), -unsettled);
  parts_.blocks.add_described_locked(block_of(from.first), -static_cast<std::int64_t>(moved.value));
  parts_.blocks.add_settled_locked(block_of(to), static_cast<std::int64_t>(moved.value));
  parts_.budget.uncharge(moved);  // both were charged
  count(parts_.statistics->allocation.moved_pages, moved.value);
  return moved;
}

}  // namespace polder
