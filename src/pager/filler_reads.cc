// The filler's reads: what is read with the page of a fault, and what becomes of it.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/check.h"
#include "base/message.h"
#include "os/thread.h"
#include "pager/filler.h"

namespace polder {
namespace {

// Objects of up to so many pages come as a whole, of 16 KiB wherever they begin: what is larger may be used in part. (With
// 16, cc1 in 64 MiB read so much that it did not need that it took more than 100 s in place of 19.)
constexpr PageCount kLargestWhole{5};
// Larger ones, up to this, once their pages are asked for one after the other.
constexpr PageCount kLargestWalked{2 * kPagesPerFolio};

// A read that fails is tried again after a millisecond, then four, and so on.
constexpr unsigned kReadAttempts = 3;
constexpr std::uint64_t kNsPerMs = 1'000'000;
constexpr std::uint64_t kFirstRetryNs = kNsPerMs;
constexpr unsigned kMaxRetryShift = 8;

}  // namespace

Resolution Filler::start_read(PageId page, const os::Fault& fault) {
  Read* read = free_read(0);
  if (read == nullptr) {
    if (reads_held_ == 0) return Resolution::transition;
    put_in_place_oldest();
    read = free_read(0);
  }
  const Readahead::Window window = readahead_.window(page);
  const bool up = window.direction == Readahead::Direction::up;
  const Run around = neighbourhood(page, fault, window);
  const bool reads_around = around.pages.value > 1 && (!up || around.end() - page >= PageCount{window.pages}) &&
                            (up || page - around.first >= PageCount{window.pages - 1});
  PageCount claimed{0};
  // What is around is as good as asked for.
  if (reads_around) {
    claimed =
        claim_stored(page, static_cast<std::uint32_t>((around.end() - page).value), parts_.budget.watermarks().min);
  } else if (window.pages > 1) {
    claimed = claim_stored(page, up ? window.pages : 1, room_kept_ahead());
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
  PageId next = up ? page + claimed : PageId{page.value - 1};
  PageId marker = Readahead::kNowhere;
  if (reads_around) {
    read_others({page + claimed, around.end() - (page + claimed)});
    read_others({around.first, page - around.first});
    next = up ? around.end() : PageId{around.first.value - 1};
  } else if (window.pages > 1) {
    if (claimed.value < window.pages) {
      const auto rest = window.pages - static_cast<std::uint32_t>(claimed.value);
      next = read_ahead({next, rest, window.direction}, nullptr);
    }
    next = read_ahead({next, window.pages, window.direction}, &marker);
  }
  readahead_.advance(next, marker);
  density_.advance();
  return Resolution::done;
}

// What is stored of a stream's window, as long as there are buffers and room. Where the stream goes on behind it. With
// `marker` the stretch that the stream comes to first becomes one, if there is any.
PageId Filler::read_ahead(const Readahead::Ahead& ahead, PageId* marker) {
  const bool up = ahead.direction == Readahead::Direction::up;
  PageId begin = ahead.from;
  PageId end = begin + PageCount{ahead.pages};
  if (!up) {
    end = PageId{ahead.from.value + 1};
    begin = PageId{end.value - std::min(end.value, ahead.pages)};
  }
  while (begin < end) {
    const PageId folio = first_page(folio_of(up ? begin : PageId{end.value - 1}));
    const PageId first = std::max(begin, folio);
    const PageId piece_end = std::min(end, folio + PageCount{kPagesPerFolio});
    const Stretches read = read_stretches({first, piece_end - first});
    Read* const nearest = up ? read.lowest : read.highest;
    if (marker != nullptr && nearest != nullptr) {
      nearest->marker = true;
      *std::exchange(marker, nullptr) = nearest->first;
    }
    if (up) begin = read.end;
    if (read.end != piece_end) break;
    if (!up) end = first;
  }
  return up ? begin : PageId{end.value - 1};
}

// A read for each stretch that is stored of these, which are a folio's.
Filler::Stretches Filler::read_stretches(Run pages) {
  Stretches stretches{.end = pages.first};
  if (!parts_.blocks.known(block_of(pages.first))) return stretches;
  while (stretches.end < pages.end()) {
    const bool stored = parts_.table.load(stretches.end).state() == PageState::stored;
    Read* const read = stored ? free_read(spare_reads()) : nullptr;
    if (stored && (read == nullptr || parts_.budget.free() <= room_kept_ahead())) break;
    const auto rest = static_cast<std::uint32_t>((pages.end() - stretches.end).value);
    const PageCount claimed = stored ? claim_stored(stretches.end, rest, room_kept_ahead()) : PageCount{0};
    if (claimed.value != 0) {
      submit_new(*read, stretches.end, claimed, PageCount{0}, Asked::ahead);
      if (stretches.lowest == nullptr) stretches.lowest = read;
      stretches.highest = read;
    }
    stretches.end = stretches.end + std::max(claimed, PageCount{1});
  }
  return stretches;
}

// A stream makes room for itself, once it has used up what is free: what is below low is made good in the background.
PageCount Filler::room_kept_ahead() const { return {parts_.budget.watermarks().low.value / 2}; }

// Some stay for faults.
unsigned Filler::spare_reads() const { return std::max(read_count_ / 4, 1U); }

// Somebody came for a page on its way: its installation wakes everybody. A marker's is now. What is stored and in no read
// is being moved to another page: nobody will be woken.
Resolution Filler::meet(PageId page, PageWord word) {
  Read* const end = reads_ + read_count_;
  Read* const read = std::find_if(reads_, end, [page](const Read& each) {
    return each.count != 0 && page >= each.first && page < each.first + PageCount{each.count};
  });
  if (read == end) return word.source() == PageState::stored ? Resolution::transition : Resolution::done;
  if (!read->marker) return Resolution::done;
  const PageId first = read->first;
  read->marker = false;
  if (read->held_ns != 0) put_in_place(*read);
  const Readahead::Ahead ahead = readahead_.reached(first);
  if (ahead.pages == 0) return Resolution::done;
  PageId marker = Readahead::kNowhere;
  const PageId next = read_ahead(ahead, &marker);
  readahead_.advance(next, marker);
  return Resolution::done;
}

void Filler::put_in_place_oldest() {
  Read* oldest = nullptr;
  for (unsigned i = 0; i < read_count_; ++i) {
    Read& read = reads_[i];
    if (read.held_ns != 0 && (oldest == nullptr || read.held_ns < oldest->held_ns)) oldest = &read;
  }
  put_in_place(*oldest);
}

// What is stored of these.
void Filler::read_others(Run others) {
  for (PageId page = others.first; page < others.end();) {
    Read* const read = free_read(spare_reads());
    if (read == nullptr) break;
    const PageCount claimed =
        claim_stored(page, static_cast<std::uint32_t>((others.end() - page).value), parts_.budget.watermarks().min);
    if (claimed.value != 0) submit_new(*read, page, claimed, claimed, Asked::around);
    page = page + std::max(claimed, PageCount{1});
  }
}

// What is worth having with the page: what else there is of its object, or of its folio where faults are dense. To be noted
// by density_.advance().
Run Filler::neighbourhood(PageId page, const os::Fault& fault, const Readahead::Window& window) {
  // In faults: an eighth of the folios that can be resident. (With a quarter, reads at random lost 8 %.)
  const auto reach = static_cast<std::uint32_t>(std::min<std::uint64_t>(parts_.budget.limit().value, UINT32_MAX)) /
                     (8 * kPagesPerFolio);
  const Run dense = density_.window(page, reach);
  const bool walks = window.length == 2 && window.direction == Readahead::Direction::up;
  const Run object = object_of(page, fault, walks);
  if (object.pages >= dense.pages) return object;
  for (std::uint32_t i = 1; i < dense.pages.value; ++i) {
    const PageId other{dense.first.value + static_cast<std::uint32_t>((page.value + i * 5) % dense.pages.value)};
    if (other == page || parts_.table.load(other).state() != PageState::stored) continue;
    density_.probe(other);
    break;
  }
  return dense;
}

// The pages of the object that the fault is about, as far as they are worth having at once; at least its own. Of a larger
// one, those that follow where somebody walks through it.
Run Filler::object_of(PageId page, const os::Fault& fault, bool walks) const {
  if (objects_ == nullptr) return {page, {1}};
  const PageCount most = walks ? kLargestWalked : kLargestWhole;
  const Run object =
      objects_->pages_of_object(reinterpret_cast<const void*>(fault.address + fault.offset), most + PageCount{1});
  if (object.pages > most) return {page, {1}};
  return object.pages > kLargestWhole ? Run{page, object.end() - page} : object;
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
  read.marker = false;
  read.held_ns = 0;
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
  if (!completion.error.ok()) return read_failed(read, completion.error);
  count_alone(parts_.statistics->pager.bytes_read, read.count * kPageSize);
  if (!read.marker) return put_in_place(read);
  read.held_ns = os::monotonic_ns();
  ++reads_held_;
}

// Of a read that is complete.
void Filler::put_in_place(Read& read) {
  StatisticsSegment& statistics = *parts_.statistics;
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
        finish(page, read.asked == Asked::ahead ? Copy::streamed : Copy::retained);
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
  if (read.held_ns != 0) --reads_held_;
  read.held_ns = 0;
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

void Filler::look_after_reads() {
  if (reads_waiting_ + reads_held_ == 0) return;
  const std::uint64_t now = os::monotonic_ns();
  for (unsigned i = 0; i < read_count_; ++i) {
    Read& read = reads_[i];
    if (read.held_ns != 0 && now - read.held_ns >= kHoldMs * kNsPerMs) put_in_place(read);
    if (read.count == 0 || read.retry_at_ns == 0 || read.retry_at_ns > now) continue;
    read.retry_at_ns = 0;
    --reads_waiting_;
    submit(read);
  }
}

}  // namespace polder
