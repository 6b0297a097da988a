#include "pager/filler.h"

#include <algorithm>
#include <cerrno>

#include "base/check.h"
#include "base/fatal.h"
#include "base/message.h"
#include "os/mapping.h"
#include "os/thread.h"

namespace polder {
namespace {

// A folio of zeros: never written, so it costs no memory.
[[gnu::section(".bss.seldom")]] alignas(kPageSize) constinit char zeros[kFolioSize] = {};

// Pages filled ahead of a first touch that follows its predecessor. A fault costs 8 µs, each further page 0.8.
constexpr std::uint32_t kZeroWindow = 8;

// Pages that only the forking thread may take while it forks.
constexpr PageCount kForkReserve{8};

// Being read for an owner who has freed it.
bool is_unwanted(PageWord word) { return word.discarded() && word.source() == PageState::stored; }

}  // namespace

Errno Filler::prepare(unsigned reads) {
  POLDER_CHECK(reads > 0 && reads <= kMaxReads, "number of reads", reads);
  if (pattern_page_ != nullptr) return kOk;  // a forked child has its parent's
  const std::size_t size = bytes(memory_for(reads));
  const Result<char*> memory = os::map_private(size);
  if (!memory.ok()) return memory.error;
  parts_.budget.charge_metadata(pages_up(size));
  pattern_page_ = memory.value;
  for (; read_count_ < reads; ++read_count_) {
    reads_[read_count_].buffer = pattern_page_ + kPageSize + read_count_ * kFolioSize;
  }
  density_.use(pattern_page_ + kPageSize + std::size_t{reads} * kFolioSize, remembered_for(reads));
  return kOk;
}

void Filler::attach(os::IoEngine& engine, os::Pagemap& pagemap) {
  engine_ = &engine;
  pagemap_ = &pagemap;
}

void Filler::reset_in_child() {
  for (Read& read : reads_) {
    read.count = 0;
    read.retry_at_ns = 0;
    read.held_ns = 0;
  }
  reads_outstanding_ = 0;
  reads_waiting_ = 0;
  reads_held_ = 0;
  engine_ = nullptr;
  pagemap_ = nullptr;
  favoured_.store(0, std::memory_order_relaxed);
}

Resolution Filler::resolve(PageId page, const os::Fault& fault) {
  const PageWord word = parts_.table.load(page);
  switch (word.state()) {
    case PageState::untouched:
      return fill_zero(page, fault);
    case PageState::resident:
      return check_present(page);
    case PageState::evicting:
      return Resolution::transition;
    case PageState::staged:
      return take_back(page, word, fault);
    case PageState::stored:
      if (Location::from_bits(word.location()).is_pattern()) return fill_pattern(page, word, fault);
      return start_read(page, fault);
    case PageState::filling:
      return meet(page, word);
    case PageState::lost:
    case PageState::guard:  // about to be one, or one no longer
      parts_.uffd.wake(parts_.arena.address(page), kPageSize);
      return Resolution::done;
  }
  POLDER_CHECK(false, "page state", page.value, word.bits());
}

bool Filler::charge_one(const os::Fault& fault) {
  const std::uint32_t favoured = favoured_.load(std::memory_order_relaxed);
  if (favoured == 0) return parts_.budget.try_charge(PageCount{1});
  if (favoured != fault.thread) return parts_.budget.try_charge(PageCount{1}, kForkReserve);
  // Nothing is evicted until it has forked, so it must not wait for room.
  if (!parts_.budget.try_charge(PageCount{1})) parts_.budget.charge_always(PageCount{1});
  return true;
}

// Claims the page for filling. False when it changed, or when the evictor works on its folio; `word` is then current.
bool Filler::begin(PageId page, PageWord& word) {
  const PageWord filling = word.with_state(PageState::filling).with_source(word.state()).without_discarded();
  if (!parts_.table.transition(page, word, filling)) return false;
  if (!parts_.gate.closed(folio_of(page))) return true;
  revert(page);
  word = parts_.table.load(page);
  return false;
}

// Back to what it was; freed meanwhile, it is nothing any more.
void Filler::revert(PageId page) {
  PageWord word = parts_.table.load(page);
  PageWord before;
  do {
    const bool nothing = is_unwanted(word) || word.source() == PageState::untouched;
    before = nothing ? PageWord{} : word.with_state(word.source());
  } while (!parts_.table.transition(page, word, before));
  if (is_unwanted(word)) drop_copy(word);
}

// The stored copy of a page that was being filled.
void Filler::drop_copy(PageWord word) {
  const bool stored = word.source() == PageState::stored;
  if (!stored && !word.retained()) return;
  const Location location = Location::from_bits(word.location());
  parts_.store.release(location);
  if (!stored) return;
  parts_.statistics->reclaim.stored_pages.fetch_sub(1, std::memory_order_relaxed);
  if (location.is_pattern()) parts_.statistics->reclaim.same_filled_pages.fetch_sub(1, std::memory_order_relaxed);
}

void Filler::finish(PageId page, Copy stored_copy) {
  PageWord word = parts_.table.load(page);
  PageWord resident;
  do {
    resident = PageWord::of(PageState::resident);
    if (stored_copy != Copy::none || word.retained()) resident = resident.with_retained(word.location());
    if (stored_copy == Copy::streamed) resident = resident.with_streamed();
  } while (!parts_.table.transition(page, word, resident));
}

// Installs `count` pages and wakes their waiters. Pages that are there already count as installed. The number installed;
// fewer when the program took the mapping away.
std::uint32_t Filler::install(PageId first, std::uint32_t count, const char* bytes) {
  std::uint32_t done = 0;
  while (done < count) {
    char* const destination = parts_.arena.address(PageId{first.value + done});
    const os::Progress progress = parts_.uffd.copy(destination, bytes + std::size_t{done} * kPageSize,
                                                   std::size_t{count - done} * kPageSize, os::Userfaultfd::Wake::yes);
    done += static_cast<std::uint32_t>(progress.done / kPageSize);
    if (done == count) break;
    if (progress.error.code() != EEXIST) break;
    parts_.uffd.wake(parts_.arena.address(PageId{first.value + done}), kPageSize);
    ++done;
  }
  return done;
}

std::uint32_t Filler::zero_window(PageId page) const {
  const std::uint32_t handed_out = handed_out_from(page);  // once: others may change it
  if (handed_out == 0) return 1;
  const bool forward =
      page.value % kPagesPerFolio == 0 || parts_.table.load(page - PageCount{1}).state() != PageState::untouched;
  return forward ? std::min(kZeroWindow, handed_out) : 1;
}

// Pages of the folio from that page on that belong to the owners of their granules.
std::uint32_t Filler::handed_out_from(PageId page) const {
  const PageId end = first_page(folio_of(page)) + PageCount{kPagesPerFolio};
  std::uint32_t number = 0;
  for (PageId next = page; next < end;) {
    const PageId granule = first_page(granule_of(next));
    const PageId handed_out = granule + PageCount{parts_.blocks.handed_out(granule_of(next))};
    if (handed_out <= next) break;
    number += static_cast<std::uint32_t>((handed_out - next).value);
    next = granule + PageCount{kPagesPerGranule};
    if (handed_out != next) break;
  }
  return number;
}

Resolution Filler::fill_zero(PageId page, const os::Fault& fault) {
  std::uint32_t window = zero_window(page);
  if (window == 1 || !parts_.budget.try_charge(PageCount{window}, parts_.budget.watermarks().low)) {
    window = 1;
    if (!charge_one(fault)) return Resolution::no_room;
  }
  std::uint32_t claimed = 0;
  for (; claimed < window; ++claimed) {
    const PageId next{page.value + claimed};
    PageWord word = parts_.table.load(next);
    if (word.state() != PageState::untouched || !begin(next, word)) break;
  }
  const std::uint32_t installed = claimed == 0 ? 0 : install(page, claimed, zeros);
  for (std::uint32_t i = 0; i < claimed; ++i) {
    if (i < installed) {
      finish(PageId{page.value + i}, Copy::none);
    } else {
      revert(PageId{page.value + i});
    }
  }
  parts_.budget.uncharge(PageCount{window - installed});
  if (claimed == 0) return Resolution::transition;
  if (installed == 0) {
    parts_.uffd.wake(parts_.arena.address(page), kPageSize);  // the mapping is gone: the toucher finds out by itself
    return Resolution::done;
  }
  parts_.policy.arrived(folio_of(page), mask_of(page, installed), Arrival::zero);
  count_alone(parts_.statistics->pager.fills_zero, installed);
  return Resolution::done;
}

Resolution Filler::take_back(PageId page, PageWord word, const os::Fault& fault) {
  if (!charge_one(fault)) return take_back_by_move(page, word);
  switch (copy_back(page, word)) {
    case CopiedBack::in_transition:
      return Resolution::transition;
    case CopiedBack::no_mapping:
      return Resolution::done;
    case CopiedBack::yes:
      break;
  }
  count_alone(parts_.statistics->pager.soft_faults);
  take_back_others(neighbourhood(page, fault, {}));
  density_.advance();
  return Resolution::done;
}

// What is staged of these.
void Filler::take_back_others(Run others) {
  for (PageId other = others.first; other < others.end(); ++other) {
    if (!parts_.blocks.known(block_of(other)) || parts_.blocks.mode(block_of(other)) != BlockMode::managed) return;
    const PageWord word = parts_.table.load(other);
    if (word.state() != PageState::staged || word.discarded()) continue;
    if (!parts_.budget.try_charge(PageCount{1}, parts_.budget.watermarks().min)) return;
    static_cast<void>(copy_back(other, word));
  }
}

// Precondition: a page is charged for it; given back when it is not copied.
Filler::CopiedBack Filler::copy_back(PageId page, PageWord word) {
  if (!begin(page, word)) {
    parts_.budget.uncharge(PageCount{1});
    return CopiedBack::in_transition;
  }
  const char* const source = parts_.staging.address(word.staging_page());
  const bool seen = parts_.staging.cluster_of(word.staging_page()).seen.load(std::memory_order_acquire);
  const os::Presence presence = seen ? os::Presence::present : pagemap_->presence(source);
  if (presence == os::Presence::unknown) {
    revert(page);
    parts_.budget.uncharge(PageCount{1});
    return CopiedBack::in_transition;
  }
  // A hole here would make the loop wait for itself.
  POLDER_CHECK(presence == os::Presence::present, "a page being taken back is in staging", page.value, word.bits(),
               static_cast<unsigned>(pagemap_->presence(parts_.arena.address(page))));
  if (install(page, 1, source) == 0) {
    revert(page);
    parts_.budget.uncharge(PageCount{1});
    parts_.uffd.wake(parts_.arena.address(page), kPageSize);
    return CopiedBack::no_mapping;
  }
  took_back(page);
  return CopiedBack::yes;
}

// Without room for a copy the staging page itself moves back, if nobody works on its cluster.
Resolution Filler::take_back_by_move(PageId page, PageWord word) {
  courtesy_.be_firm();
  if (!evictor_.mutex().try_lock()) return Resolution::no_room;
  Resolution resolution = Resolution::transition;
  if (begin(page, word)) {
    if (evictor_.take_back_by_move_locked(page, word.staging_page())) {
      took_back(page);
      count_alone(parts_.statistics->pager.soft_faults);
      resolution = Resolution::done;
    } else {
      revert(page);
      resolution = Resolution::no_room;
    }
  }
  evictor_.mutex().unlock();
  if (resolution == Resolution::done) parts_.uffd.wake(parts_.arena.address(page), kPageSize);
  return resolution;
}

void Filler::took_back(PageId page) {
  finish(page, Copy::none);
  parts_.policy.arrived(folio_of(page), mask_of(page, 1), Arrival::staged);
  count_alone(parts_.statistics->pager.fills_staged);
}

Resolution Filler::fill_pattern(PageId page, PageWord word, const os::Fault& fault) {
  if (!charge_one(fault)) return Resolution::no_room;
  if (!begin(page, word)) {
    parts_.budget.uncharge(PageCount{1});
    return Resolution::transition;
  }
  const Location location = Location::from_bits(word.location());
  const std::uint64_t pattern = parts_.store.pattern(location);
  const char* bytes = zeros;
  if (pattern != 0) {
    std::fill_n(reinterpret_cast<std::uint64_t*>(pattern_page_), kPageSize / sizeof pattern, pattern);
    bytes = pattern_page_;
  }
  if (install(page, 1, bytes) == 0) {
    revert(page);
    parts_.budget.uncharge(PageCount{1});
    parts_.uffd.wake(parts_.arena.address(page), kPageSize);
    return Resolution::done;
  }
  finish(page, Copy::none);
  parts_.store.release(location);
  parts_.statistics->reclaim.stored_pages.fetch_sub(1, std::memory_order_relaxed);
  parts_.statistics->reclaim.same_filled_pages.fetch_sub(1, std::memory_order_relaxed);
  parts_.policy.arrived(folio_of(page), mask_of(page, 1), Arrival::stored);
  count_alone(parts_.statistics->pager.fills_same_filled);
  return Resolution::done;
}

Resolution Filler::check_present(PageId page) {
  // Usually the page came while the message waited. If it is really missing, the program dropped it behind our back
  // (a raw madvise): what it held is not ours to guess.
  char* const address = parts_.arena.address(page);
  if (pagemap_->presence(address) == os::Presence::absent) {
    PageWord word = parts_.table.load(page);
    if (word.state() != PageState::resident) return Resolution::transition;
    if (!parts_.table.transition(page, word, PageWord::of(PageState::lost).with_poisoning())) {
      return Resolution::transition;
    }
    // Nobody moves a lost page: now the kernel's answer is final.
    if (!poison(page, word)) {
      parts_.uffd.wake(address, kPageSize);
      return Resolution::done;
    }
    if (word.retained()) parts_.store.release(Location::from_bits(word.location()));
    parts_.budget.uncharge(PageCount{1});
    say(Message().text("page ").pointer(address).text(
        " vanished: the program discarded heap memory with a raw system call; touching it raises SIGBUS"));
  }
  parts_.uffd.wake(address, kPageSize);
  return Resolution::done;
}

void Filler::lose(PageId page, const char* why) {
  char* const address = parts_.arena.address(page);
  PageWord word = parts_.table.load(page);
  PageWord next;
  do {
    next = is_unwanted(word) ? PageWord{} : PageWord::of(PageState::lost).with_poisoning();
  } while (!parts_.table.transition(page, word, next));
  drop_copy(word);
  parts_.budget.uncharge(PageCount{1});
  if (is_unwanted(word)) {
    parts_.uffd.wake(address, kPageSize);
    return;
  }
  static_cast<void>(poison(page, PageWord::of(PageState::lost)));
  say(Message().text("page ").pointer(address).text(" is lost: ").text(why).text("; touching it raises SIGBUS"));
  parts_.uffd.wake(address, kPageSize);
}

// Precondition: the word says poisoning, so nobody else changes it. False, and the word is `otherwise`, when the page is
// there after all.
bool Filler::poison(PageId page, PageWord otherwise) {
  char* const address = parts_.arena.address(page);
  const Errno error = parts_.uffd.poison(address, kPageSize);
  const bool there = error.code() == EEXIST;
  if (!error.ok() && !there) {
    die(Message().text("page ").pointer(address).text(" is lost and cannot be poisoned: ").error(error.code()));
  }
  PageWord word = PageWord::of(PageState::lost).with_poisoning();
  const bool changed = parts_.table.transition(page, word, there ? otherwise : PageWord::of(PageState::lost));
  POLDER_CHECK(changed, "a page that is being poisoned", page.value, word.bits());
  return !there;
}

void Filler::give_up(PageId page) {
  PageWord word = parts_.table.load(page);
  if (word.state() != PageState::untouched && word.state() != PageState::stored) return;
  if (!begin(page, word)) return;
  parts_.budget.charge_always(PageCount{1});  // lose() gives it back
  lose(page, "no memory is left for it and swap takes no more");
}

void Filler::plug(std::uintptr_t address) {
  const os::Progress progress =
      parts_.uffd.copy(reinterpret_cast<void*>(address), zeros, kPageSize, os::Userfaultfd::Wake::yes);
  if (progress.done == 0) parts_.uffd.wake(reinterpret_cast<void*>(address), kPageSize);
}

}  // namespace polder
