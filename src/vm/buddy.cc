#include "vm/buddy.h"

#include <algorithm>
#include <bit>

#include "base/check.h"

namespace polder {

// What the node of a run's first granule says; all other nodes are zero.
enum class Buddy::State : std::uint8_t {
  none = 0,
  free_clean,
  free_dirty,
  allocated,  // `next` granules
};

namespace {

constexpr unsigned order_for(std::uint64_t granules) {
  return granules <= 1 ? 0 : static_cast<unsigned>(std::bit_width(granules - 1));
}

// How much larger a run may be that something growing is put into.
constexpr unsigned kRoomOrders = 4;

// How many free runs are looked at for a stretch, on each of so many lists below the one of its own size.
constexpr unsigned kStretchLooks = 8;
constexpr unsigned kStretchOrders = 2;

constexpr std::uint32_t length_of(unsigned order) { return std::uint32_t{1} << order; }

constexpr unsigned index_of(Buddy::Contents contents) { return static_cast<unsigned>(contents); }

}  // namespace

Buddy::Buddy(MetadataArray<Node> nodes, GranuleCount granules)
    : nodes_(nodes), granules_(static_cast<std::uint32_t>(granules.value)) {
  POLDER_CHECK(granules.value > 0 && granules.value <= nodes.count() && granules.value < kNone,
               "buddy's nodes do not cover its granules", granules.value, nodes.count());
  for (auto& lists : heads_) std::fill(std::begin(lists), std::end(lists), kNone);
}

GranuleCount Buddy::rounded(GranuleCount granules) {
  if (granules.value > kHighest) return {(granules.value + kHighest - 1) / kHighest * kHighest};
  return {length_of(order_for(granules.value))};
}

// --- lists ------------------------------------------------------------------------------------------------------------

Buddy::State Buddy::state_locked(std::uint32_t granule) const { return static_cast<State>(node(granule).state); }

void Buddy::push_locked(std::uint32_t granule, unsigned order, Contents contents) {
  std::uint32_t& head = heads_[index_of(contents)][order];
  node(granule) = {
      .next = head,
      .previous = kNone,
      .state = static_cast<std::uint8_t>(contents == Contents::dirty ? State::free_dirty : State::free_clean),
      .order = static_cast<std::uint8_t>(order),
      .unused = 0};
  if (head != kNone) node(head).previous = granule;
  head = granule;
  ++free_runs_[order];
  free_ += length_of(order);
  if (contents == Contents::dirty) dirty_.fetch_add(length_of(order), std::memory_order_relaxed);
}

Buddy::Contents Buddy::remove_locked(std::uint32_t granule) {
  const Node its = node(granule);
  const Contents contents = static_cast<State>(its.state) == State::free_dirty ? Contents::dirty : Contents::clean;
  POLDER_CHECK(contents == Contents::dirty || static_cast<State>(its.state) == State::free_clean, "run is not free",
               granule, its.state);
  if (its.previous != kNone) {
    node(its.previous).next = its.next;
  } else {
    POLDER_CHECK(heads_[index_of(contents)][its.order] == granule, "free run is not on its list", granule, its.order);
    heads_[index_of(contents)][its.order] = its.next;
  }
  if (its.next != kNone) node(its.next).previous = its.previous;
  --free_runs_[its.order];
  free_ -= length_of(its.order);
  if (contents == Contents::dirty) dirty_.fetch_sub(length_of(its.order), std::memory_order_relaxed);
  node(granule) = {};
  return contents;
}

// Coalesces with free buddies of the same contents.
void Buddy::release_locked(std::uint32_t granule, unsigned order, Contents contents) {
  const State same = contents == Contents::dirty ? State::free_dirty : State::free_clean;
  while (order < kMaxOrder) {
    const std::uint32_t buddy = granule ^ length_of(order);
    if (buddy >= frontier_ || state_locked(buddy) != same || node(buddy).order != order) break;
    remove_locked(buddy);
    granule &= ~length_of(order);
    ++order;
  }
  push_locked(granule, order, contents);
}

// In aligned pieces, as large as they can be.
void Buddy::release_range_locked(std::uint64_t first, std::uint64_t end, Contents contents) {
  while (first < end) {
    const auto order = std::min({static_cast<unsigned>(std::countr_zero(first)),
                                 static_cast<unsigned>(std::bit_width(end - first)) - 1, kMaxOrder});
    release_locked(static_cast<std::uint32_t>(first), order, contents);
    first += length_of(order);
  }
}

void Buddy::set_allocated_locked(std::uint32_t granule, std::uint64_t length) {
  node(granule) = {.next = static_cast<std::uint32_t>(length),
                   .previous = 0,
                   .state = static_cast<std::uint8_t>(State::allocated),
                   .order = 0,
                   .unused = 0};
}

Buddy::Node& Buddy::require_allocated_locked(GranuleId first, GranuleCount granules) const {
  POLDER_CHECK(granules.value > 0 && first.value + granules.value <= frontier_, "run was never handed out", first.value,
               granules.value, frontier_);
  Node& its = node(first.value);
  POLDER_CHECK(state_locked(first.value) == State::allocated &&
                   (its.next == granules.value || its.next == rounded(granules).value),
               "run is not allocated with that size", first.value, granules.value, its.state, its.next);
  return its;
}

// A block of the highest order more, or the arena's tail.
bool Buddy::advance_frontier_locked() {
  if (frontier_ == granules_) return false;
  const std::uint32_t end = std::min(granules_ - frontier_, kHighest) + frontier_;
  if (!nodes_.ensure(end).ok()) return false;
  const std::uint32_t first = frontier_;
  frontier_ = end;
  release_range_locked(first, end, Contents::clean);
  return true;
}

// Coalesces buddies of different contents, as dirty runs, from the lowest order upwards; whether there were any.
bool Buddy::coalesce_mixed_locked() {
  bool any = false;
  for (unsigned order = 0; order < kMaxOrder; ++order) {
    std::uint32_t next = kNone;
    for (std::uint32_t granule = heads_[index_of(Contents::dirty)][order]; granule != kNone; granule = next) {
      next = node(granule).next;
      const std::uint32_t buddy = granule ^ length_of(order);
      if (buddy >= frontier_ || state_locked(buddy) != State::free_clean || node(buddy).order != order) continue;
      remove_locked(granule);
      remove_locked(buddy);
      // Removes runs of higher orders only, so `next` stays valid.
      release_locked(granule & ~length_of(order), order + 1, Contents::dirty);
      any = true;
    }
  }
  return any;
}

// --- allocate ---------------------------------------------------------------------------------------------------------

std::optional<Buddy::Taken> Buddy::allocate(GranuleCount granules, GranuleCount alignment, Fit fit) {
  POLDER_CHECK(granules.value > 0 && std::has_single_bit(alignment.value), "bad request to the buddy", granules.value,
               alignment.value);
  if (granules.value > granules_ || alignment.value > granules_) return std::nullopt;
  const os::MutexLock lock(mutex_);
  std::uint64_t length = rounded(granules).value;
  std::optional<Taken> taken;
  if (length > kHighest || alignment.value > kHighest) {
    taken = take_blocks_locked((length + kHighest - 1) / kHighest,
                               std::max<std::uint64_t>(alignment.value / kHighest, 1), length);
  } else {
    const unsigned order = order_for(std::max(length, alignment.value));
    if (fit == Fit::clean) taken = take_clean_locked(order, length);
    if (fit == Fit::roomy) taken = take_roomy_locked(order, length);
    if (!taken && length == granules.value) taken = take_head_locked(order, Contents::dirty, length);
    if (!taken && alignment.value == 1) {
      taken = take_stretch_locked(granules.value);
      if (taken) length = granules.value;
    }
    if (!taken) taken = take_order_locked(order, length);
  }
  if (!taken) return std::nullopt;
  if (taken->dirty) {
    // Room to grow is free only while nothing is resident there.
    release_range_locked(taken->first.value + granules.value, taken->first.value + length, Contents::dirty);
    length = granules.value;
  }
  set_allocated_locked(taken->first.value, length);
  allocated_.fetch_add(length, std::memory_order_relaxed);
  return taken;
}

// A run of the order, of which what is beyond `length` stays free.
std::optional<Buddy::Taken> Buddy::take_order_locked(unsigned order, std::uint64_t length) {
  while (true) {
    if (const std::optional<Taken> taken = take_listed_locked(order, length)) return taken;
    if (!advance_frontier_locked() && !coalesce_mixed_locked()) return std::nullopt;
  }
}

std::optional<Buddy::Taken> Buddy::take_listed_locked(unsigned order, std::uint64_t length) {
  for (const Contents contents : {Contents::dirty, Contents::clean}) {
    for (unsigned from = order; from <= kMaxOrder; ++from) {
      if (const std::optional<Taken> taken = take_head_locked(from, contents, length)) return taken;
    }
  }
  return std::nullopt;
}

std::optional<Buddy::Taken> Buddy::take_clean_locked(unsigned order, std::uint64_t length) {
  do {
    for (unsigned from = order; from <= kMaxOrder; ++from) {
      if (const std::optional<Taken> taken = take_head_locked(from, Contents::clean, length)) return taken;
    }
  } while (advance_frontier_locked());
  return std::nullopt;
}

std::optional<Buddy::Taken> Buddy::take_roomy_locked(unsigned order, std::uint64_t length) {
  for (unsigned from = std::min(order + kRoomOrders, kMaxOrder); from > order; --from) {
    if (const std::optional<Taken> taken = take_head_locked(from, Contents::dirty, length)) return taken;
  }
  return std::nullopt;
}

// Neighbouring free runs that are long enough together, whatever their orders: what comes and goes in lengths that are no
// powers of two leaves such. The runs that are found are dirty for at least half of the length; of a long one before them
// the beginning is taken, dirty or not. Looks at a few runs only.
std::optional<Buddy::Taken> Buddy::take_stretch_locked(std::uint64_t length) {
  const unsigned largest = static_cast<unsigned>(std::bit_width(length)) - 1;
  for (unsigned order = largest + 1; order-- > largest - std::min(largest, kStretchOrders);) {
    std::uint32_t run = heads_[index_of(Contents::dirty)][order];
    for (unsigned looks = 0; run != kNone && looks < kStretchLooks; ++looks, run = node(run).next) {
      std::uint64_t first = run;
      std::uint64_t end = run;
      std::uint64_t dirty = 0;
      while (end - first < length && end < frontier_ && is_head_of_free_locked(static_cast<std::uint32_t>(end))) {
        dirty += dirty_length_locked(static_cast<std::uint32_t>(end));
        end += length_of(node(static_cast<std::uint32_t>(end)).order);
      }
      while (end - first < length && first != 0) {
        const std::uint32_t before = free_run_of_locked(static_cast<std::uint32_t>(first) - 1);
        if (before == kNone) break;
        dirty += dirty_length_locked(before);
        first = before;
      }
      if (end - first < length || 2 * dirty < length) continue;
      for (std::uint64_t next = first; next < first + length;) {
        const std::uint64_t next_end = next + length_of(node(static_cast<std::uint32_t>(next)).order);
        const Contents contents = remove_locked(static_cast<std::uint32_t>(next));
        if (next_end > first + length) release_range_locked(first + length, next_end, contents);
        next = next_end;
      }
      return Taken{{static_cast<std::uint32_t>(first)}, true};
    }
  }
  return std::nullopt;
}

bool Buddy::is_head_of_free_locked(std::uint32_t granule) const {
  const State state = state_locked(granule);
  return state == State::free_clean || state == State::free_dirty;
}

std::uint64_t Buddy::dirty_length_locked(std::uint32_t run) const {
  return state_locked(run) == State::free_dirty ? length_of(node(run).order) : 0;
}

// The beginning of the first run on a list.
std::optional<Buddy::Taken> Buddy::take_head_locked(unsigned order, Contents contents, std::uint64_t length) {
  const std::uint32_t granule = heads_[index_of(contents)][order];
  if (granule == kNone) return std::nullopt;
  remove_locked(granule);
  release_range_locked(granule + length, std::uint64_t{granule} + length_of(order), contents);
  return Taken{{granule}, contents == Contents::dirty};
}

// First fit over whole blocks, of which those beyond the frontier count as free.
std::optional<Buddy::Taken> Buddy::take_blocks_locked(std::uint64_t blocks, std::uint64_t alignment,
                                                      std::uint64_t length) {
  const std::uint64_t whole = granules_ / kHighest;
  const auto is_free = [this](std::uint64_t block) POLDER_NO_THREAD_SAFETY_ANALYSIS {
    const auto granule = static_cast<std::uint32_t>(block * kHighest);
    if (granule >= frontier_) return true;
    const State state = state_locked(granule);
    return (state == State::free_clean || state == State::free_dirty) && node(granule).order == kMaxOrder;
  };
  for (bool coalesced = false;; coalesced = true) {
    for (std::uint64_t start = 0; start + blocks <= whole;) {
      std::uint64_t found = 0;
      while (found < blocks && is_free(start + found)) ++found;
      if (found < blocks) {
        start = (start + found + alignment) / alignment * alignment;
        continue;
      }
      const auto first = static_cast<std::uint32_t>(start * kHighest);
      while (frontier_ < first + blocks * kHighest) {
        if (!advance_frontier_locked()) return std::nullopt;
      }
      bool dirty = false;
      for (std::uint64_t block = 0; block < blocks; ++block) {
        dirty |= remove_locked(static_cast<std::uint32_t>(first + block * kHighest)) == Contents::dirty;
      }
      release_range_locked(first + length, first + blocks * kHighest, dirty ? Contents::dirty : Contents::clean);
      return Taken{{first}, dirty};
    }
    if (coalesced || !coalesce_mixed_locked()) return std::nullopt;
  }
}

// --- free -------------------------------------------------------------------------------------------------------------

void Buddy::free(GranuleId first, GranuleCount granules, Contents contents) {
  const os::MutexLock lock(mutex_);
  Node& its = require_allocated_locked(first, granules);
  const std::uint64_t length = its.next;
  its = {};
  release_range_locked(first.value, first.value + granules.value, contents);
  release_range_locked(first.value + granules.value, first.value + length, Contents::clean);
  allocated_.fetch_sub(length, std::memory_order_relaxed);
}

void Buddy::shrink(GranuleId first, GranuleCount from, GranuleCount to, Contents tail) {
  POLDER_CHECK(to.value > 0 && to <= from, "run does not shrink", to.value, from.value);
  const os::MutexLock lock(mutex_);
  Node& its = require_allocated_locked(first, from);
  const std::uint64_t length = its.next;
  its.next = static_cast<std::uint32_t>(to.value);
  release_range_locked(first.value + to.value, first.value + from.value, tail);
  release_range_locked(first.value + from.value, first.value + length, Contents::clean);
  allocated_.fetch_sub(length - to.value, std::memory_order_relaxed);
}

bool Buddy::extend(GranuleId first, GranuleCount from, GranuleCount to) {
  POLDER_CHECK(to >= from, "run does not grow", to.value, from.value);
  const os::MutexLock lock(mutex_);
  Node& its = require_allocated_locked(first, from);
  if (to.value <= its.next) return true;
  const std::uint64_t end = first.value + to.value;
  const std::uint64_t old_end = first.value + its.next;
  while (frontier_ < end) {
    // Only where everything up to the frontier is free can the run go beyond it.
    if (!is_free_locked(old_end, frontier_) || !advance_frontier_locked()) return false;
  }
  if (!is_free_locked(old_end, end)) return false;
  for (std::uint64_t next = old_end; next < end;) {
    const std::uint32_t free_run = free_run_of_locked(static_cast<std::uint32_t>(next));
    const std::uint64_t free_end = std::uint64_t{free_run} + length_of(node(free_run).order);
    const Contents contents = remove_locked(free_run);
    release_range_locked(std::max(end, std::uint64_t{free_run}), free_end, contents);
    next = free_end;
  }
  allocated_.fetch_add(end - old_end, std::memory_order_relaxed);
  its.next = static_cast<std::uint32_t>(to.value);
  return true;
}

// The first granule of the free run that the granule, below the frontier, is part of; kNone when it is not free.
std::uint32_t Buddy::free_run_of_locked(std::uint32_t granule) const {
  for (unsigned order = 0; order <= kMaxOrder; ++order) {
    const std::uint32_t first = granule & ~(length_of(order) - 1);
    const State state = state_locked(first);
    if (state == State::none) continue;
    const bool free = state == State::free_clean || state == State::free_dirty;
    return free && node(first).order >= order ? first : kNone;
  }
  return kNone;
}

bool Buddy::is_free_locked(std::uint64_t first, std::uint64_t end) const {
  while (first < end) {
    const std::uint32_t free_run = free_run_of_locked(static_cast<std::uint32_t>(first));
    if (free_run == kNone) return false;
    first = std::uint64_t{free_run} + length_of(node(free_run).order);
  }
  return true;
}

std::optional<Buddy::DirtyRun> Buddy::isolate_dirty(GranuleCount most) {
  const os::MutexLock lock(mutex_);
  for (unsigned order = 0; order < kOrderCount; ++order) {
    const std::uint32_t granule = heads_[index_of(Contents::dirty)][order];
    if (granule == kNone) continue;
    remove_locked(granule);
    const std::uint64_t length = std::clamp<std::uint64_t>(most.value, 1, length_of(order));
    const auto first = static_cast<std::uint32_t>(granule + length_of(order) - length);
    release_range_locked(granule, first, Contents::dirty);
    set_allocated_locked(first, length);
    allocated_.fetch_add(length, std::memory_order_relaxed);
    return DirtyRun{{first}, {length}};
  }
  return std::nullopt;
}

// --- statistics and verification --------------------------------------------------------------------------------------

Buddy::Statistics Buddy::statistics() const {
  const os::MutexLock lock(mutex_);
  Statistics statistics;
  std::copy(std::begin(free_runs_), std::end(free_runs_), std::begin(statistics.free_runs));
  statistics.free = {free_};
  statistics.dirty = dirty();
  statistics.allocated = allocated();
  statistics.frontier = {frontier_};
  return statistics;
}

void Buddy::verify() const {
  const os::MutexLock lock(mutex_);
  POLDER_CHECK(frontier_ == granules_ || frontier_ % kHighest == 0, "frontier inside a block", frontier_);
  std::uint64_t free_granules = 0;
  std::uint64_t dirty_granules = 0;
  std::uint64_t allocated_granules = 0;
  std::uint64_t runs[kOrderCount] = {};
  for (std::uint32_t granule = 0; granule < frontier_;) {
    const Node& its = node(granule);
    const State state = state_locked(granule);
    POLDER_CHECK(state != State::none, "granule in no run", granule);
    const std::uint64_t length = state == State::allocated ? its.next : length_of(its.order);
    POLDER_CHECK(length > 0 && granule + length <= frontier_, "run crosses the frontier", granule, length, frontier_);
    if (state == State::allocated) {
      allocated_granules += length;
    } else {
      POLDER_CHECK(its.order <= kMaxOrder && granule % length == 0, "free run is not aligned", granule, its.order);
      free_granules += length;
      ++runs[its.order];
      if (state == State::free_dirty) dirty_granules += length;
      const std::uint32_t buddy = granule ^ length_of(its.order);
      POLDER_CHECK(its.order == kMaxOrder || buddy >= frontier_ || state_locked(buddy) != state ||
                       node(buddy).order != its.order,
                   "free buddies coexist", granule, buddy, its.order);
    }
    for (std::uint64_t inside = granule + 1; inside < granule + length; ++inside) {
      POLDER_CHECK(state_locked(static_cast<std::uint32_t>(inside)) == State::none, "run inside a run", granule,
                   inside);
    }
    granule = static_cast<std::uint32_t>(granule + length);
  }
  POLDER_CHECK(free_granules == free_, "count of free granules is wrong", free_granules, free_);
  POLDER_CHECK(dirty_granules == dirty().value, "count of dirty granules is wrong", dirty_granules, dirty().value);
  POLDER_CHECK(allocated_granules == allocated().value, "count of allocated granules is wrong", allocated_granules,
               allocated().value);
  for (unsigned order = 0; order < kOrderCount; ++order) {
    POLDER_CHECK(runs[order] == free_runs_[order], "count of free runs is wrong", order, runs[order],
                 free_runs_[order]);
  }
  verify_lists_locked();
}

// Every list holds free runs of its order and contents, and together as many as there are.
void Buddy::verify_lists_locked() const {
  for (unsigned order = 0; order < kOrderCount; ++order) {
    std::uint64_t listed = 0;
    for (const Contents contents : {Contents::clean, Contents::dirty}) {
      const State state = contents == Contents::dirty ? State::free_dirty : State::free_clean;
      std::uint32_t previous = kNone;
      for (std::uint32_t granule = heads_[index_of(contents)][order]; granule != kNone; granule = node(granule).next) {
        POLDER_CHECK(granule < frontier_ && state_locked(granule) == state && node(granule).order == order,
                     "run on the wrong list", granule, order);
        POLDER_CHECK(node(granule).previous == previous, "free list is torn", granule, order, previous);
        previous = granule;
        POLDER_CHECK(++listed <= free_runs_[order], "free list is longer than its count", order, listed);
      }
    }
    POLDER_CHECK(listed == free_runs_[order], "free list is shorter than its count", order, listed);
  }
}

}  // namespace polder
