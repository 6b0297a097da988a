#include "heap/run_source.h"

#include <algorithm>

#include "os/mapping.h"

namespace polder {

namespace {

// What may be dirty however little is in use.
constexpr GranuleCount kDirtyFloor{(std::size_t{128} << 20) / kGranuleSize};
// Beyond what was in use at the highest tide: at least this, more where purging takes time, and more where runs are large.
constexpr GranuleCount kLeastSlack{1};
constexpr GranuleCount kMostSlack{(std::size_t{1} << 20) / kGranuleSize};
// Of the highest tide, where that is more. (Measured with shadowed page tables on the trace, a twelfth, a 16th, a 20th: 0.76,
// 0.73, 0.84 of glibc's time, 1.03, 1.01, 1.00 of its memory. Without any: 1.03 and 0.91.)
constexpr std::uint64_t kMostSlackPart = 16;
// Purged in pieces that are so small on average that the flushes of the TLB cost more than the pages.
constexpr PageCount kSmallPurge{(std::size_t{512} << 10) / kPageSize};
constexpr std::uint64_t kLargestSlackPart = 8;
// In largest runs. (Measured on the trace: 2, 3, 4, 6 of them fault 140, 110, 101, 96 thousand times at 55.9, 56.3, 57.7,
// 59.4 MB.)
constexpr std::uint64_t kLargestSlackRuns = 3;
// Every so often both tides are looked at; the highest sinks by a part of the difference.
constexpr std::uint64_t kTideNs = 250'000'000;
constexpr std::uint64_t kSinkingPart = 8;
// In that time, in purging and moving pieces, all threads together and whatever they waited for: the slack doubles. To fault the
// pages in again takes the program as long once more. (Measured where page-table changes are expensive, at a 20th and a
// 64th: stl 1.17 and 0.93 of jemalloc's time, 0.42 and 0.50 of its memory; realloc_vectors 1.19 and 0.96, 0.80 of it.)
constexpr std::uint64_t kMuchPurgingNs = kTideNs / 64;
// Moves count as purges do. Where page tables are shadowed they cost the program more: to touch the pages first takes four
// times as long. (Measured there: with room for it the trace takes 0.8 rather than 1.0 of jemalloc's time, in a tenth more
// memory.)
constexpr std::uint64_t kMovingCostShadowed = 5;
// Not worth a system call: this, or this part of what is in use.
constexpr GranuleCount kSpare{1};
constexpr std::uint64_t kSparePart = 64;
// Of larger runs programs often touch little, and they are not filled.
constexpr PageCount kFillUpTo{(std::size_t{16} << 20) / kPageSize};
constexpr std::uint32_t kFillPause = 64;

constexpr Buddy::Contents contents_of(bool dirty) { return dirty ? Buddy::Contents::dirty : Buddy::Contents::clean; }

}  // namespace

std::optional<Buddy::Taken> RunSource::take_space(GranuleCount granules, GranuleCount alignment, Buddy::Fit fit) {
  const std::optional<Buddy::Taken> taken = buddy_.allocate(granules, alignment, fit);
  if (!taken) return std::nullopt;
  used_.fetch_add(granules.value, std::memory_order_relaxed);
  if (map_.ensure(taken->first + granules)) return taken;
  return_space(*taken, granules);
  return std::nullopt;
}

void RunSource::return_space(Buddy::Taken taken, GranuleCount granules) {
  used_.fetch_sub(granules.value, std::memory_order_relaxed);
  buddy_.free(taken.first, granules, contents_of(taken.dirty));
}

bool RunSource::extend(GranuleId first, GranuleCount from, GranuleCount to) {
  if (!buddy_.extend(first, from, to)) return false;
  used_.fetch_add((to - from).value, std::memory_order_relaxed);
  note_tides(to - from);
  return true;
}

void RunSource::shrink(GranuleId first, GranuleCount from, GranuleCount to, Buddy::Contents tail) {
  used_.fetch_sub((from - to).value, std::memory_order_relaxed);
  buddy_.shrink(first, from, to, tail);
}

void RunSource::release(Run run, GranuleId first, GranuleCount granules, Buddy::Contents contents) {
  backing_.discard(run);
  return_space({first, contents == Buddy::Contents::dirty}, granules);
  settle();
}

PageCount RunSource::dirty() const {
  PageCount dirty = pages(buddy_.dirty());
  for (const FreePages* const part : pages_) dirty += part->dirty();
  return dirty;
}

GranuleCount RunSource::used() const {
  const std::uint64_t used = used_.load(std::memory_order_relaxed);
  return {used - std::min(used, unused_.load(std::memory_order_relaxed) / kPagesPerGranule)};
}

void RunSource::note_tides(GranuleCount allocated) {
  if (allocated.value > largest_.load(std::memory_order_relaxed)) {
    largest_.store(allocated.value, std::memory_order_relaxed);
  }
  const std::uint64_t now = granules_up(dirty()).value;
  if (now < lowest_.load(std::memory_order_relaxed)) lowest_.store(now, std::memory_order_relaxed);
  const std::uint64_t used_now = used().value;
  if (used_now > highest_.load(std::memory_order_relaxed)) highest_.store(used_now, std::memory_order_relaxed);
  keep_bound({used_now}, {now});
}

// A slack in which the largest run has no room would keep pieces only.
GranuleCount RunSource::bound() const {
  const std::uint64_t highest = highest_.load(std::memory_order_relaxed);
  const std::uint64_t largest = largest_.load(std::memory_order_relaxed);
  const std::uint64_t part = highest / kLargestSlackPart;
  const std::uint64_t more = part < largest ? 0 : std::min(kLargestSlackRuns * largest, part);
  return GranuleCount{highest + more} + (backing_.under_pressure() ? kLeastSlack : slack());
}

// Purges what is dirty beyond the bound.
void RunSource::keep_bound(GranuleCount used, GranuleCount dirty) {
  const GranuleCount bound = this->bound();
  const GranuleCount resident = used + dirty;
  if (resident <= bound + std::max(kSpare, GranuleCount{used.value / kSparePart})) return;
  const std::uint64_t begin = clock_();
  const Purged purged = purge_down_to(dirty - std::min(resident - bound, dirty));
  if (purged.pages.value < kSmallPurge.value * purged.pieces) note_purging(clock_() - begin);
}

// Two threads that free spans of 10 to 300 KB at once spent a third of their time in purging, each time interrupting the
// other's processor.
void RunSource::note_purging(std::uint64_t ns) {
  const std::uint64_t before = purging_ns_.fetch_add(ns, std::memory_order_relaxed);
  if (before / kMuchPurgingNs == (before + ns) / kMuchPurgingNs) return;
  const std::uint64_t most = std::max(kMostSlack.value, highest_.load(std::memory_order_relaxed) / kMostSlackPart);
  std::uint64_t slack = slack_.load(std::memory_order_relaxed);
  slack_.compare_exchange_strong(slack, std::min(2 * slack, most), std::memory_order_relaxed);
}

void RunSource::settle() {
  const GranuleCount dirty = granules_up(this->dirty());
  if (dirty <= kSpare) return;
  const GranuleCount used = this->used();
  // Down to half, so that a program that frees much makes few system calls.
  if (const GranuleCount most = std::max(kDirtyFloor, used); dirty > most) {
    purge_down_to({most.value / 2});
    return;
  }
  keep_bound(used, dirty);
  const std::uint64_t now = clock_();
  std::uint64_t due = next_tide_ns_.load(std::memory_order_relaxed);
  if (now < due || !next_tide_ns_.compare_exchange_strong(due, now + kTideNs, std::memory_order_relaxed)) return;
  const std::uint64_t highest = highest_.load(std::memory_order_relaxed);
  highest_.store(highest - (highest - std::min(highest, used.value)) / kSinkingPart, std::memory_order_relaxed);
  largest_.store(largest_.load(std::memory_order_relaxed) / 2, std::memory_order_relaxed);
  if (purging_ns_.exchange(0, std::memory_order_relaxed) < kMuchPurgingNs) {
    std::uint64_t slack = slack_.load(std::memory_order_relaxed);
    const std::uint64_t more = slack - kLeastSlack.value;
    slack_.compare_exchange_strong(slack, slack - (more + kSinkingPart - 1) / kSinkingPart, std::memory_order_relaxed);
  }
  const std::uint64_t idle = std::min(lowest_.load(std::memory_order_relaxed), dirty.value);
  if (idle > kSpare.value) purge_down_to(dirty - GranuleCount{idle / 2});
  lowest_.store(granules_up(this->dirty()).value, std::memory_order_relaxed);
}

void RunSource::fill_large_from_dirty(Run run) {
  if (run.pages > kFillUpTo || pages(buddy_.dirty()) < kFillFrom) return;
  // More pieces that may stay as they are spare the moves of many runs to come.
  if (used() + granules_up(dirty()) <= bound()) return;
  if (const std::uint32_t pause = fill_pause_.load(std::memory_order_relaxed); pause != 0) {
    fill_pause_.store(pause - 1, std::memory_order_relaxed);
    return;
  }
  // Stretches of it, in pieces of a granule.
  const auto piece_at = [&run](PageId page) {
    return Run{page, std::min(run.end() - page, PageCount{kPagesPerGranule})};
  };
  for (PageId page = run.first; page < run.end();) {
    PageId end = page;
    while (end < run.end() && backing_.reads_as_zero(piece_at(end))) end = piece_at(end).end();
    if (end - page >= kFillFrom && !fill_untouched({page, end - page})) return;
    page = end < run.end() ? piece_at(end).end() : end;
  }
}

// The buddy's, from the highest address downwards.
class RunSource::DirtyFree final : public DirtySource {
 public:
  explicit DirtyFree(RunSource& runs) : runs_(runs) {}
  ~DirtyFree() { runs_.purge(rests_); }

  std::optional<Run> take(PageCount most) override {
    if (most < kFillFrom) return std::nullopt;
    const std::optional<Buddy::DirtyRun> dirty = runs_.buddy_.isolate_dirty({most.value / kPagesPerGranule});
    exhausted_ = !dirty;
    if (!dirty) return std::nullopt;
    return Run{first_page(dirty->first), pages(dirty->granules)};
  }
  void give_back(Run run, bool refused) override {
    refused_ = refused;
    if (refused_) return runs_.buddy_.free(granule_of(run.first), granules_up(run.pages), Buddy::Contents::dirty);
    runs_.add(run, rests_);
  }

  bool exhausted() const { return exhausted_; }
  bool refused() const { return refused_; }

 private:
  RunSource& runs_;
  Isolated rests_;
  bool exhausted_ = false;
  bool refused_ = true;  // until something has gone
};

// False when nothing is dirty any more, or nothing can be moved.
bool RunSource::fill_untouched(Run run) {
  DirtyFree source(*this);
  const std::uint64_t begin = clock_();
  if (backing_.recycle(source, run).value != 0) {
    note_purging((os::page_tables_are_shadowed() ? kMovingCostShadowed : 1) * (clock_() - begin));
  }
  if (source.exhausted()) return false;
  if (source.refused()) fill_pause_.store(kFillPause, std::memory_order_relaxed);
  return !source.refused();
}

void RunSource::add(Run run, Isolated& isolated) {
  if (isolated.count == isolated.runs.size()) purge(isolated);
  isolated.runs[isolated.count++] = run;
}

void RunSource::purge(Isolated& isolated) {
  if (isolated.count == 0) return;
  backing_.purge({isolated.runs.data(), isolated.count});
  for (std::size_t i = 0; i < isolated.count; ++i) {
    const Run run = isolated.runs[i];
    buddy_.free(granule_of(run.first), granules_up(run.pages), Buddy::Contents::clean);
  }
  isolated.count = 0;
}

FreePages::Purged RunSource::purge_dirty(PageCount most) {
  Purged purged;
  Isolated isolated;
  while (purged.pages < most && isolated.count < isolated.runs.size()) {
    const std::optional<Buddy::DirtyRun> run = buddy_.isolate_dirty(granules_up(most - purged.pages));
    if (!run) break;
    add({first_page(run->first), pages(run->granules)}, isolated);
    purged.pages += pages(run->granules);
    ++purged.pieces;
  }
  purge(isolated);
  for (FreePages* const part : pages_) {
    if (purged.pages.value != 0) return purged;
    purged = part->purge_dirty(most);
  }
  return purged;
}

FreePages::Purged RunSource::purge_down_to(GranuleCount target) {
  Purged purged;
  for (PageCount now = dirty(); now > pages(target); now = dirty()) {
    const Purged some = purge_dirty(now - pages(target));
    if (some.pages.value == 0) break;
    purged.pages += some.pages;
    purged.pieces += some.pieces;
  }
  return purged;
}

GranuleCount RunSource::purge_all() { return granules_up(purge_down_to({0}).pages); }

}  // namespace polder
