#include "heap/run_source.h"

#include <algorithm>

namespace polder {

namespace {

// What may be dirty however little is in use.
constexpr GranuleCount kDirtyFloor{(std::size_t{128} << 20) / kGranuleSize};
// Beyond what was in use at the highest tide: at least this and a part, more where runs are large.
constexpr GranuleCount kSlack{(std::size_t{256} << 10) / kGranuleSize};
constexpr std::uint64_t kSlackPart = 8;
constexpr std::uint64_t kLargestSlackPart = 4;
// Every so often both tides are looked at; the highest sinks by a part of the difference.
constexpr std::uint64_t kTideNs = 250'000'000;
constexpr std::uint64_t kSinkingPart = 8;
// Not worth a system call.
constexpr GranuleCount kSpare{(std::size_t{256} << 10) / kGranuleSize};

constexpr Buddy::Contents contents_of(bool dirty) { return dirty ? Buddy::Contents::dirty : Buddy::Contents::clean; }

}  // namespace

std::optional<Buddy::Taken> RunSource::take_space(GranuleCount granules, GranuleCount alignment, Buddy::Fit fit) {
  const std::optional<Buddy::Taken> taken = buddy_.allocate(granules, alignment, fit);
  if (!taken) return std::nullopt;
  used_.fetch_add(granules.value, std::memory_order_relaxed);
  if (granules.value > largest_.load(std::memory_order_relaxed)) {
    largest_.store(granules.value, std::memory_order_relaxed);
  }
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
  note_tides();
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

PageCount RunSource::dirty() const { return pages(buddy_.dirty()) + pages_.dirty(); }

GranuleCount RunSource::used() const {
  const std::uint64_t used = used_.load(std::memory_order_relaxed);
  return {used - std::min(used, unused_.load(std::memory_order_relaxed) / kPagesPerGranule)};
}

void RunSource::note_tides() {
  const std::uint64_t now = granules_up(dirty()).value;
  if (now < lowest_.load(std::memory_order_relaxed)) lowest_.store(now, std::memory_order_relaxed);
  const std::uint64_t used_now = used().value;
  if (used_now > highest_.load(std::memory_order_relaxed)) highest_.store(used_now, std::memory_order_relaxed);
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
  const std::uint64_t highest = highest_.load(std::memory_order_relaxed);
  const std::uint64_t slack =
      std::clamp(2 * largest_.load(std::memory_order_relaxed), highest / kSlackPart, highest / kLargestSlackPart);
  const GranuleCount bound = GranuleCount{highest + slack} + kSlack;
  if (const GranuleCount resident = used + dirty; resident > bound + kSpare) {
    purge_down_to(dirty - std::min(resident - bound, dirty));
    return;
  }
  const std::uint64_t now = clock_();
  std::uint64_t due = next_tide_ns_.load(std::memory_order_relaxed);
  if (now < due || !next_tide_ns_.compare_exchange_strong(due, now + kTideNs, std::memory_order_relaxed)) return;
  highest_.store(highest - (highest - std::min(highest, used.value)) / kSinkingPart, std::memory_order_relaxed);
  largest_.store(largest_.load(std::memory_order_relaxed) / 2, std::memory_order_relaxed);
  const std::uint64_t idle = std::min(lowest_.load(std::memory_order_relaxed), dirty.value);
  if (idle > kSpare.value) purge_down_to(dirty - GranuleCount{idle / 2});
  lowest_.store(granules_up(this->dirty()).value, std::memory_order_relaxed);
}

PageCount RunSource::purge_dirty(PageCount most) {
  const std::optional<Buddy::DirtyRun> run = buddy_.isolate_dirty(granules_up(most));
  if (!run) return pages_.purge_dirty(most);
  backing_.purge({first_page(run->first), pages(run->granules)});
  buddy_.free(run->first, run->granules, Buddy::Contents::clean);
  return pages(run->granules);
}

GranuleCount RunSource::purge_down_to(GranuleCount target) {
  PageCount purged;
  for (PageCount now = dirty(); now > pages(target); now = dirty()) {
    const PageCount some = purge_dirty(now - pages(target));
    if (some.value == 0) break;
    purged += some;
  }
  return granules_up(purged);
}

GranuleCount RunSource::purge_all() { return purge_down_to({0}); }

}  // namespace polder
