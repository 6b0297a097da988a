#include "pager/relocator.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "os/mapping.h"
#include "os/thread.h"

namespace polder {
namespace {

// Pages in a row: fewer are made anew in less time than they are moved.
constexpr std::size_t kRecycleFrom = 16;

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

// Of native blocks; empty at the end when there are none. Of pages that are the caller's alone.
Run Relocator::first_resident(Run run) const {
  for (PageId page = run.first; page < run.end() && parts_.blocks.known(block_of(page));) {
    const Run piece = piece_of(run, page);
    if (parts_.blocks.mode(block_of(page)) == BlockMode::native) {
      const Run resident = parts_.blocks.native_pages(block_of(page)).first_resident(piece);
      if (resident.pages.value != 0) return resident;
    }
    page = piece.end();
  }
  return {run.end(), {0}};
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
    const std::optional<PageCount> moved = recycle_run(mover, *from, {to.first + done, to.pages - done});
    source.give_back(*from, !moved);
    if (!moved) break;
    done += *moved;
  }
  return done;
}

// What the program never touched is no use elsewhere. Empty at the end when there is nothing that is worth a move.
Run Relocator::first_touched(Run run) const {
  while (run.pages.value != 0) {
    const Run resident = first_resident(run);
    const os::PresentPages touched =
        os::first_present(parts_.arena.address(resident.first), bytes(resident.pages), kRecycleFrom);
    if (touched.count != 0) return {resident.first + PageCount{touched.first}, {touched.count}};
    run = {resident.end(), run.end() - resident.end()};
  }
  return run;
}

std::optional<PageCount> Relocator::recycle_run(os::Userfaultfd& mover, Run from, Run to) {
  PageCount done;
  while (done < to.pages) {
    const Run source = first_touched(from);
    if (source.pages.value == 0) break;
    const PageId target = to.first + done;
    const PageCount length = std::min(source.pages, piece_of(to, target).pages);
    const PageCount moved = relocate_piece(mover, {source.first, length}, target);
    if (moved.value == 0) return done.value == 0 ? std::nullopt : std::optional(done);
    done += moved;
    from = {source.first + moved, from.end() - (source.first + moved)};
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
    const PageCount length = std::min(piece_of(from, source).pages, piece_of({to, from.pages}, target).pages);
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

  NativePages& sources = parts_.blocks.native_pages_locked(block_of(from.first));
  NativePages& targets = parts_.blocks.native_pages_locked(block_of(to));
  PageCount length;
  while (length < from.pages && sources.is_resident(from.first + length) && targets.is_fresh(to + length)) {
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
  sources.drop({from.first, moved});
  targets.settle({to, moved});
  parts_.budget.uncharge(moved);  // both were charged
  count(parts_.statistics->allocation.moved_pages, moved.value);
  return moved;
}

}  // namespace polder
