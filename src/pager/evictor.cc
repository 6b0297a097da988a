#include "pager/evictor.h"

#include <cerrno>
#include <memory>

#include "base/check.h"
#include "base/message.h"
#include "os/mapping.h"
#include "os/thread.h"
#include "store/pattern_table.h"

namespace polder {
namespace {

constexpr std::uint64_t kWriteTag = std::uint64_t{1} << 63;

// Pages of a folio that are written, for each unchanged one that is written with them.
constexpr std::uint32_t kWrittenPerClean = 3;

}  // namespace

Evictor::ProcessResult Evictor::process_oldest_locked(os::IoEngine& engine, unsigned in_flight) {
  if (engine.outstanding() > in_flight) return {Processed::none, {}};
  Cluster* const cluster = parts_.staging.dequeue_oldest();
  if (cluster == nullptr) return {Processed::none, {}};
  if (!see(*cluster)) {
    parts_.staging.enqueue(*cluster);
    return {Processed::stuck, {}};
  }
  for (std::uint32_t i = 0; i < cluster->count; ++i) decide(cluster->pages[i], *cluster);
  if (!parts_.store.full()) keep_together(*cluster);
  if (start_writes(*cluster, engine)) {
    engine.submit();
    return {Processed::writing, {}};
  }
  const PageCount freed = retire(*cluster);
  return {freed.value != 0 ? Processed::retired : Processed::stuck, freed};
}

// Whoever reads a staged page that is not there waits for the fault loop, which cannot know its bytes either. False when
// the kernel could not tell. Once for all pages, as faults that come for one have 1 µs less to wait then.
bool Evictor::see(Cluster& cluster) {
  if (cluster.seen.load(std::memory_order_relaxed)) return true;
  std::uint64_t present[Cluster::kPositions / 64] = {};
  const char* const area = parts_.staging.address(parts_.staging.number_of(cluster, 0));
  if (!pagemap_.scan_present(area, std::size_t{cluster.windows} * kFolioSize, present).ok()) return false;
  for (std::uint32_t i = 0; i < cluster.count; ++i) {
    const StagedPage& staged = cluster.pages[i];
    const bool there = (present[staged.position / 64] >> (staged.position % 64) & 1) != 0;
    POLDER_CHECK(there, "a staged page is in staging", staged.page.value, parts_.table.load(staged.page).bits(),
                 staged.position);
  }
  cluster.seen.store(true, std::memory_order_release);
  return true;
}

void Evictor::decide(StagedPage& staged, const Cluster& cluster) {
  const std::uint32_t number = parts_.staging.number_of(cluster, staged.position);
  const PageWord word = parts_.table.load(staged.page);
  staged.location = Location::none();
  if (word.state() != PageState::staged || word.staging_page() != number) {
    staged.outcome = Outcome::gone;
    return;
  }
  if (word.discarded()) {
    staged.outcome = Outcome::dropped;
    return;
  }
  const char* const bytes = parts_.staging.address(number);
  if (const std::optional<std::uint64_t> pattern = same_filled(bytes)) {
    if (const std::optional<Location> location = parts_.store.store_pattern(*pattern)) {
      staged.outcome = Outcome::pattern;
      staged.location = *location;
      return;
    }
  }
  staged.hash = hash_page(bytes);
  if (word.retained() && parts_.store.hash(Location::from_bits(word.location())) == staged.hash) {
    staged.outcome = Outcome::clean;
    return;
  }
  staged.outcome = Outcome::written;
}

// Where most of a stream's folio is written, the few pages of it that are unchanged are written with the others: in slots of
// their own they would part every read of the folio in two. (A scan that writes to 83 % of its pages: 1.3 times as fast. For
// folios of all kinds: churn 0.93, zipf 0.96.)
void Evictor::keep_together(Cluster& cluster) {
  for (std::uint32_t first = 0; first < cluster.count;) {
    std::uint32_t end = first;
    std::uint32_t written = 0;
    std::uint32_t clean = 0;
    for (; end < cluster.count && folio_of(cluster.pages[end].page) == folio_of(cluster.pages[first].page); ++end) {
      written += cluster.pages[end].outcome == Outcome::written;
      clean += cluster.pages[end].outcome == Outcome::clean && parts_.table.load(cluster.pages[end].page).streamed();
    }
    for (std::uint32_t i = first; i < end && clean * kWrittenPerClean <= written; ++i) {
      StagedPage& staged = cluster.pages[i];
      if (staged.outcome == Outcome::clean && parts_.table.load(staged.page).streamed())
        staged.outcome = Outcome::written;
    }
    first = end;
  }
}

bool Evictor::start_writes(Cluster& cluster, os::IoEngine& engine) {
  std::uint32_t wanted = 0;
  for (std::uint32_t i = 0; i < cluster.count; ++i) wanted += cluster.pages[i].outcome == Outcome::written;
  std::uint32_t next = 0;  // page whose turn it is
  unsigned vector_count = 0;
  unsigned extents = 0;
  cluster.failed.store(0, std::memory_order_relaxed);
  while (wanted != 0 && extents < kMaxExtents) {
    SlotRun slots = parts_.store.allocate_slots(wanted);
    // A full swap file still has the slots of outdated copies of the very pages that are to be written.
    if (slots.count == 0 && give_up_outdated_copies(cluster)) slots = parts_.store.allocate_slots(wanted);
    if (slots.count == 0) break;
    const unsigned first_vector = vector_count;
    std::uint32_t last_position = Cluster::kPositions;
    for (unsigned slot = 0; slot < slots.count; ++next) {
      StagedPage& staged = cluster.pages[next];
      if (staged.outcome != Outcome::written) continue;
      staged.location = slots[slot++];
      char* const bytes = parts_.staging.address(parts_.staging.number_of(cluster, staged.position));
      if (vector_count > first_vector && staged.position == last_position + 1) {
        cluster.vectors[vector_count - 1].iov_len += kPageSize;
      } else {
        cluster.vectors[vector_count++] = iovec{.iov_base = bytes, .iov_len = kPageSize};
      }
      last_position = staged.position;
    }
    wanted -= slots.count;
    ++extents;
    const Location start = slots[0];
    cluster.pending.fetch_add(1, std::memory_order_relaxed);
    engine.write(parts_.store.fd(start), cluster.vectors + first_vector, vector_count - first_vector,
                 parts_.store.offset(start), kWriteTag | cluster.index);
    count(parts_.statistics->reclaim.bytes_written, std::uint64_t{slots.count} * kPageSize);
  }
  for (; next < cluster.count; ++next) {
    if (cluster.pages[next].outcome == Outcome::written) cluster.pages[next].outcome = Outcome::kept;
  }
  if (extents == 0) return false;
  cluster.state = ClusterState::writing;
  writing_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

bool Evictor::give_up_outdated_copies(Cluster& cluster) {
  bool any = false;
  for (std::uint32_t i = 0; i < cluster.count; ++i) {
    const StagedPage& staged = cluster.pages[i];
    if (staged.outcome != Outcome::written) continue;
    PageWord word = parts_.table.load(staged.page);
    const bool ours =
        word.state() == PageState::staged && word.staging_page() == parts_.staging.number_of(cluster, staged.position);
    if (!ours || !word.retained()) continue;
    if (!parts_.table.transition(staged.page, word, word.without_retained())) continue;
    parts_.store.release(Location::from_bits(word.location()));
    any = true;
  }
  return any;
}

void Evictor::write_completed(const os::IoCompletion& completion) {
  Cluster& cluster = parts_.staging.cluster(static_cast<std::uint32_t>(completion.tag & ~kWriteTag));
  if (!completion.error.ok()) {
    cluster.failed.store(completion.error.code(), std::memory_order_relaxed);
    count(parts_.statistics->reclaim.write_errors);
  }
  // Release pairs with the acquire in retire_written_locked(): zero means that `failed` is final.
  const std::uint32_t before = cluster.pending.fetch_sub(1, std::memory_order_release);
  POLDER_CHECK(before != 0, "a write completes once", cluster.index);
}

PageCount Evictor::retire_written_locked() {
  PageCount freed;
  if (writing_.load(std::memory_order_relaxed) == 0) return freed;
  for (std::uint32_t i = 0; i < parts_.staging.created(); ++i) {
    Cluster& cluster = parts_.staging.cluster(i);
    if (cluster.state != ClusterState::writing || cluster.pending.load(std::memory_order_acquire) != 0) continue;
    writing_.fetch_sub(1, std::memory_order_relaxed);
    if (cluster.failed.load(std::memory_order_relaxed) != 0) fail_writes(cluster);
    freed += retire(cluster);
  }
  return freed;
}

void Evictor::fail_writes(Cluster& cluster) {
  // Which extent failed is not worth knowing: every page is still in staging, and all are tried again elsewhere.
  const Errno why(cluster.failed.load(std::memory_order_relaxed));
  for (std::uint32_t i = 0; i < cluster.count; ++i) {
    StagedPage& staged = cluster.pages[i];
    if (staged.outcome != Outcome::written) continue;
    parts_.store.abandon(staged.location, why);
    staged.location = Location::none();
    staged.outcome = Outcome::kept;
  }
}

PageCount Evictor::retire(Cluster& cluster) {
  iovec ranges[Cluster::kMaxPages];
  std::size_t range_count = 0;
  std::uint32_t kept = 0;
  std::uint32_t last_position = Cluster::kPositions;
  PageCount freed;
  for (std::uint32_t i = 0; i < cluster.count; ++i) {
    StagedPage& staged = cluster.pages[i];
    if (!settle(staged, cluster)) {
      // What could not be stored goes back to where it came from, and must not clog the staging area.
      if (staged.outcome == Outcome::kept && put_back(staged, cluster)) continue;
      staged.outcome = Outcome::undecided;
      cluster.pages[kept++] = staged;
      continue;
    }
    char* const bytes = parts_.staging.address(parts_.staging.number_of(cluster, staged.position));
    if (range_count != 0 && staged.position == last_position + 1) {
      ranges[range_count - 1].iov_len += kPageSize;
    } else {
      ranges[range_count++] = iovec{.iov_base = bytes, .iov_len = kPageSize};
    }
    last_position = staged.position;
    freed += PageCount{1};
  }
  cluster.count = kept;
  Errno error;
  if (kept == 0 && range_count != 0) {
    // One call over the whole cluster, holes included, costs one TLB shootdown.
    error = os::discard(parts_.staging.address(parts_.staging.number_of(cluster, 0)),
                        std::size_t{cluster.windows} * kFolioSize);
  } else if (kept != 0 && range_count != 0) {
    error = os::discard_all(ranges, range_count);
  }
  POLDER_CHECK(error.ok(), "staging pages can be discarded", error.code());
  parts_.budget.uncharge(freed);
  if (kept == 0) {
    parts_.staging.give_back(cluster);
  } else {
    parts_.staging.enqueue(cluster);
  }
  if (freed.value != 0) parts_.wakeups.room_changed();
  return freed;
}

// Gives the page its final word. False when it must stay staged.
bool Evictor::settle(StagedPage& staged, const Cluster& cluster) {
  const std::uint32_t number = parts_.staging.number_of(cluster, staged.position);
  StatisticsSegment& statistics = *parts_.statistics;
  const bool has_new_location = staged.outcome == Outcome::written || staged.outcome == Outcome::pattern;
  if (staged.outcome == Outcome::written) parts_.store.commit(staged.location, staged.hash);
  PageWord word = parts_.table.load(staged.page);
  for (;;) {
    const bool ours = word.staging_page() == number;
    if (ours && word.state() == PageState::filling && word.source() == PageState::staged) {
      // Being copied back out of this very page: a microsecond, and the copy may not lose its source.
      os::yield_cpu();
      word = parts_.table.load(staged.page);
      continue;
    }
    if (!ours || word.state() != PageState::staged) {
      if (has_new_location) parts_.store.release(staged.location);
      return true;
    }
    if (word.discarded()) {
      if (!parts_.table.transition(staged.page, word, PageWord::of(PageState::untouched))) continue;
      if (has_new_location) parts_.store.release(staged.location);
      if (word.retained()) parts_.store.release(Location::from_bits(word.location()));
      return true;
    }
    switch (staged.outcome) {
      case Outcome::clean: {
        const PageWord stored = PageWord::of(PageState::stored).with_location(word.location());
        if (!parts_.table.transition(staged.page, word, stored)) continue;
        count(statistics.reclaim.clean_drops);
        count(statistics.reclaim.stored_pages);
        return true;
      }
      case Outcome::written:
      case Outcome::pattern: {
        const PageWord stored = PageWord::of(PageState::stored).with_location(staged.location.bits());
        if (!parts_.table.transition(staged.page, word, stored)) continue;
        if (word.retained()) parts_.store.release(Location::from_bits(word.location()));
        count(statistics.reclaim.stored_pages);
        if (staged.outcome == Outcome::pattern) count(statistics.reclaim.same_filled_pages);
        return true;
      }
      case Outcome::undecided:
      case Outcome::gone:
      case Outcome::dropped:
      case Outcome::kept:
        // Dropped, but handed out again since: its bytes count once more.
        return false;
    }
  }
}

// A staging page shared with a forked relative is refused until we have a copy of our own, which takes its place and so
// needs no room.
bool Evictor::move_back(PageId page, std::uint32_t number, os::Userfaultfd::Wake wake) {
  char* const source = parts_.staging.address(number);
  char* const destination = parts_.arena.address(page);
  os::Progress progress = parts_.uffd.move(destination, source, kPageSize, wake);
  if (progress.error.code() == EBUSY && forked_.load(std::memory_order_relaxed) &&
      os::populate_writable(source, kPageSize).ok()) {
    progress = parts_.uffd.move(destination, source, kPageSize, wake);
  }
  return progress.done == kPageSize;
}

bool Evictor::put_back(const StagedPage& staged, const Cluster& cluster) {
  const std::uint32_t number = parts_.staging.number_of(cluster, staged.position);
  PageWord word = parts_.table.load(staged.page);
  if (word.state() != PageState::staged || word.staging_page() != number) return false;
  const PageWord filling = word.with_state(PageState::filling).with_source(PageState::staged);
  if (!parts_.table.transition(staged.page, word, filling)) return false;
  const PageState next =
      move_back(staged.page, number, os::Userfaultfd::Wake::yes) ? PageState::resident : PageState::staged;
  word = parts_.table.load(staged.page);
  PageWord settled;
  do {
    settled = next == PageState::staged ? word.with_state(next) : PageWord::of(next);
    if (next == PageState::resident && word.retained()) settled = settled.with_retained(word.location());
  } while (!parts_.table.transition(staged.page, word, settled));
  if (next == PageState::staged) {
    parts_.uffd.wake(parts_.arena.address(staged.page), kPageSize);  // a fault may have met it in between
    return false;
  }
  parts_.policy.arrived(folio_of(staged.page), mask_of(staged.page, 1), Arrival::refused);
  return true;
}

bool Evictor::take_back_by_move_locked(PageId page, std::uint32_t staging_page) {
  Cluster& cluster = parts_.staging.cluster_of(staging_page);
  if (cluster.state != ClusterState::staged) return false;
  std::uint32_t index = 0;
  while (index < cluster.count && parts_.staging.number_of(cluster, cluster.pages[index].position) != staging_page) {
    ++index;
  }
  POLDER_CHECK(index < cluster.count, "a staged page is in its cluster", page.value, staging_page);
  if (!move_back(page, staging_page, os::Userfaultfd::Wake::no)) return false;
  for (++index; index < cluster.count; ++index) cluster.pages[index - 1] = cluster.pages[index];
  --cluster.count;
  return true;
}

void Evictor::reset_in_child() {
  std::construct_at(&pagemap_);
  mutex_.abandon_in_child();
  writing_.store(0, std::memory_order_relaxed);
  for (std::uint32_t i = 0; i < parts_.staging.created(); ++i) {
    Cluster& cluster = parts_.staging.cluster(i);
    if (cluster.state != ClusterState::writing) continue;
    cluster.pending.store(0, std::memory_order_relaxed);
    cluster.failed.store(0, std::memory_order_relaxed);
    for (std::uint32_t j = 0; j < cluster.count; ++j) {
      StagedPage& staged = cluster.pages[j];
      staged.location = Location::none();
      staged.outcome = Outcome::undecided;
    }
    parts_.staging.enqueue(cluster);
  }
}

}  // namespace polder
