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

// Objects of up to so many pages come as a whole: what is larger may be used in part. (With 16, cc1 in 64 MiB read so much
// that it did not need that it took more than 100 s in place of 19.)
constexpr PageCount kLargestWhole{4};

// Pages that only the forking thread may take while it forks.
constexpr PageCount kForkReserve{8};

// A read that fails is tried again after a millisecond, then four, and so on.
constexpr unsigned kReadAttempts = 3;
constexpr std::uint64_t kFirstRetryNs = 1'000'000;
constexpr unsigned kMaxRetryShift = 8;

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
  }
  reads_outstanding_ = 0;
  reads_waiting_ = 0;
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
      return Resolution::done;  // its installation wakes everybody
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
    before = is_unwanted(word) ? PageWord{} : word.with_state(word.source());
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
    if (stored_copy == Copy::retained || word.retained()) resident = resident.with_retained(word.location());
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
  take_back_others(neighbourhood(page, fault));
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
  const os::Presence presence = pagemap_->presence(source);
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

Resolution Filler::start_read(PageId page, const os::Fault& fault) {
  Read* const read = free_read(0);
  if (read == nullptr) return Resolution::transition;
  const std::uint32_t window = readahead_.window(page);
  const Run around = neighbourhood(page, fault);
  const bool reads_around = around.pages.value > 1 && around.end() - page >= PageCount{window};
  PageCount claimed{0};
  // Reading ahead must not evict; what is around is as good as asked for.
  if (reads_around) {
    claimed = claim_stored(page, static_cast<std::uint32_t>((around.end() - page).value), parts_.budget.watermarks().min);
  } else if (window > 1) {
    claimed = claim_stored(page, window, parts_.budget.watermarks().low);
  }
  if (claimed.value == 0) {
    if (!charge_one(fault)) return Resolution::no_room;
    PageWord word = parts_.table.load(page);
    if (word.state() != PageState::stored || !begin(page, word)) {
      parts_.budget.uncharge(PageCount{1});
      return Resolution::transition;
    }
    claimed = PageCount{1};
  }
  submit_new(*read, page, claimed, reads_around ? claimed : PageCount{1}, Asked::by_fault);
  PageId next = page + claimed;
  if (reads_around) {
    read_others({next, around.end() - next});
    read_others({around.first, page - around.first});
    next = around.end();
  } else if (window > 1) {
    next = read_on(next, window - static_cast<std::uint32_t>(claimed.value), Asked::ahead);
  }
  readahead_.advance(next);
  density_.advance();
  return Resolution::done;
}

// The rest of a window, a read for each stretch, as long as there are buffers and room. Where it ended.
PageId Filler::read_on(PageId page, std::uint32_t window, Asked asked) {
  const Watermarks marks = parts_.budget.watermarks();
  while (window != 0) {
    // Some stay for faults.
    Read* const read = free_read(std::max(read_count_ / 4, 1U));
    if (read == nullptr) break;
    const PageCount claimed = claim_stored(page, window, asked == Asked::ahead ? marks.low : marks.min);
    if (claimed.value == 0) break;
    submit_new(*read, page, claimed, asked == Asked::ahead ? PageCount{0} : claimed, asked);
    page = page + claimed;
    window -= static_cast<std::uint32_t>(claimed.value);
  }
  return page;
}

// What is stored of these.
void Filler::read_others(Run others) {
  for (PageId page = others.first; page < others.end();) {
    const PageId next = read_on(page, static_cast<std::uint32_t>((others.end() - page).value), Asked::around);
    page = next == page ? page + PageCount{1} : next;
  }
}

// What is worth having with the page: what else there is of its object, or of its folio where faults are dense. To be noted
// by density_.advance().
Run Filler::neighbourhood(PageId page, const os::Fault& fault) {
  // In faults: an eighth of the folios that can be resident. (With a quarter, reads at random lost 8 %.)
  const auto reach = static_cast<std::uint32_t>(std::min<std::uint64_t>(parts_.budget.limit().value, UINT32_MAX)) /
                     (8 * kPagesPerFolio);
  const Run dense = density_.window(page, reach);
  const Run object = object_of(page, fault);
  if (object.pages >= dense.pages) return object;
  for (std::uint32_t i = 1; i < dense.pages.value; ++i) {
    const PageId other{dense.first.value + static_cast<std::uint32_t>((page.value + i * 5) % dense.pages.value)};
    if (other == page || parts_.table.load(other).state() != PageState::stored) continue;
    density_.probe(other);
    break;
  }
  return dense;
}

// The pages of the object that the fault is about, as far as they are worth having at once; at least its own.
Run Filler::object_of(PageId page, const os::Fault& fault) const {
  if (objects_ == nullptr) return {page, {1}};
  const Run object = objects_->pages_of_object(reinterpret_cast<const void*>(fault.address + fault.offset),
                                               kLargestWhole + PageCount{1});
  return object.pages > kLargestWhole ? Run{page, {1}} : object;
}

// Claims and charges stored pages from `first` on that lie in one folio and in consecutive slots, at most `window`, and
// no more than would leave `reserve` free.
PageCount Filler::claim_stored(PageId first, std::uint32_t window, PageCount reserve) {
  const PageCount free = parts_.budget.free();
  const std::uint64_t room = free > reserve ? (free - reserve).value : 0;
  window = static_cast<std::uint32_t>(std::min<std::uint64_t>(window, room));
  window = std::min(window, kPagesPerFolio - first.value % kPagesPerFolio);
  if (window == 0) return {};
  if (!parts_.blocks.known(block_of(first)) || parts_.blocks.mode(block_of(first)) != BlockMode::managed) return {};
  if (!parts_.budget.try_charge(PageCount{window}, reserve)) return {};
  const PageWord start = parts_.table.load(first);
  std::uint32_t claimed = 0;
  for (; claimed < window; ++claimed) {
    const PageId page = first + PageCount{claimed};
    PageWord word = parts_.table.load(page);
    if (word.state() != PageState::stored || word.location() != start.location() + claimed) break;
    if (density_.leaves_out(page)) break;
    if (Location::from_bits(word.location()).is_pattern() || !begin(page, word)) break;
  }
  parts_.budget.uncharge(PageCount{window - claimed});
  return PageCount{claimed};
}

// Null when not more than `spare` are free.
Filler::Read* Filler::free_read(unsigned spare) {
  if (reads_outstanding_ + spare >= read_count_) return nullptr;
  for (unsigned i = 0; i < read_count_; ++i) {
    if (reads_[i].count == 0) return &reads_[i];
  }
  return nullptr;
}

void Filler::submit_new(Read& read, PageId first, PageCount count, PageCount wanted, Asked asked) {
  read.first = first;
  read.count = static_cast<std::uint32_t>(count.value);
  read.wanted = static_cast<std::uint32_t>(wanted.value);
  read.asked = asked;
  read.attempts = 0;
  read.submitted_ns = os::monotonic_ns();
  ++reads_outstanding_;
  submit(read);
}

void Filler::submit(Read& read) {
  const Location location = Location::from_bits(parts_.table.load(read.first).location());
  read.vector = iovec{.iov_base = read.buffer, .iov_len = read.count * kPageSize};
  engine_->read(parts_.store.fd(location), &read.vector, 1, parts_.store.offset(location),
                static_cast<std::uint64_t>(&read - reads_));
}

void Filler::read_completed(const os::IoCompletion& completion) {
  Read& read = reads_[completion.tag];
  POLDER_CHECK(completion.tag < read_count_ && read.count != 0, "read completes once", completion.tag);
  StatisticsSegment& statistics = *parts_.statistics;
  if (!completion.error.ok()) return read_failed(read, completion.error);
  count_alone(statistics.pager.bytes_read, read.count * kPageSize);
  for (std::uint32_t i = 0; i < read.count;) {
    const auto matches = [&](std::uint32_t index) {
      const PageWord word = parts_.table.load(PageId{read.first.value + index});
      return parts_.store.matches(Location::from_bits(word.location()), read.buffer + std::size_t{index} * kPageSize);
    };
    if (!matches(i)) {
      count_alone(statistics.pager.read_errors);
      lose(PageId{read.first.value + i}, "what was read is not what was written (hash mismatch)");
      ++i;
      continue;
    }
    std::uint32_t good = 1;
    while (i + good < read.count && matches(i + good)) ++good;
    const PageId first{read.first.value + i};
    const std::uint32_t installed = install(first, good, read.buffer + std::size_t{i} * kPageSize);
    for (std::uint32_t j = 0; j < good; ++j) {
      const PageId page{first.value + j};
      if (j < installed) {
        finish(page, Copy::retained);
        statistics.reclaim.stored_pages.fetch_sub(1, std::memory_order_relaxed);
      } else {
        revert(page);
        parts_.budget.uncharge(PageCount{1});
        parts_.uffd.wake(parts_.arena.address(page), kPageSize);
      }
    }
    i += good;
  }
  const bool asked = read.asked == Asked::by_fault;
  if (asked) {
    const std::uint64_t took = os::monotonic_ns() - read.submitted_ns;
    count_alone(statistics.pager.fill_wait_ns, took);
    typical_read_ns_ = typical_read_ns_ == 0 ? took : (7 * typical_read_ns_ + took) / 8;
  }
  count_alone(statistics.pager.fills_swap, asked ? 1 : 0);
  count_alone(statistics.pager.fills_readahead, read.count - (asked ? 1 : 0));
  const FolioId folio = folio_of(read.first);
  const std::uint32_t wanted = std::min(read.wanted, read.count);
  if (wanted != 0) parts_.policy.arrived(folio, mask_of(read.first, wanted), Arrival::stored);
  if (wanted < read.count) {
    parts_.policy.arrived(folio, mask_of(read.first + PageCount{wanted}, read.count - wanted), Arrival::ahead);
  }
  read.count = 0;
  --reads_outstanding_;
}

// Pages that nobody asked for go back; the page of a fault is tried again, alone.
void Filler::read_failed(Read& read, Errno error) {
  count_alone(parts_.statistics->pager.read_errors);
  const std::uint32_t asked_for = read.asked == Asked::by_fault ? 1 : 0;
  for (; read.count > asked_for; --read.count) {
    const PageId page{read.first.value + read.count - 1};
    revert(page);
    parts_.budget.uncharge(PageCount{1});
    parts_.uffd.wake(parts_.arena.address(page), kPageSize);  // somebody may have come for it meanwhile
  }
  ++read.attempts;
  // That the kernel lacks memory says nothing about the page.
  if (asked_for != 0 && (read.attempts < kReadAttempts || error == Errno(ENOMEM))) {
    read.retry_at_ns = os::monotonic_ns() + (kFirstRetryNs << std::min(2 * (read.attempts - 1), kMaxRetryShift));
    ++reads_waiting_;
    return;
  }
  if (asked_for != 0) lose(read.first, Message().text("reading it failed: ").error(error.code()).c_str());
  read.count = 0;
  --reads_outstanding_;
}

void Filler::retry_reads() {
  if (reads_waiting_ == 0) return;
  const std::uint64_t now = os::monotonic_ns();
  for (unsigned i = 0; i < read_count_; ++i) {
    Read& read = reads_[i];
    if (read.count == 0 || read.retry_at_ns == 0 || read.retry_at_ns > now) continue;
    read.retry_at_ns = 0;
    --reads_waiting_;
    submit(read);
  }
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
