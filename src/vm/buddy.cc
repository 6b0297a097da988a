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
  allocated,         // a run of `order`
  allocated_blocks,  // `next` blocks of the highest order
};

namespace {

constexpr unsigned order_for(std::uint64_t granules) {
  return granules <= 1 ? 0 : static_cast<unsigned>(std::bit_width(granules - 1));
}

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
  node(granule) = {.next = head,
                   .previous = kNone,
                   .state = static_cast<std::uint8_t>(contents == Contents::dirty ? State::free_dirty
                                                                                  : State::free_clean),
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

void Buddy::split_locked(std::uint32_t granule, unsigned from, unsigned to, Contents contents) {
  for (unsigned order = from; order > to; --order) {
    push_locked(granule + length_of(order - 1), order - 1, contents);
  }
}

// A block of the highest order more, or the arena's tail.
bool Buddy::advance_frontier_locked() {
  if (frontier_ == granules_) return false;
  const std::uint32_t end = std::min(granules_ - frontier_, kHighest) + frontier_;
  if (!nodes_.ensure(end).ok()) return false;
  while (frontier_ < end) {
    const auto order = static_cast<unsigned>(std::bit_width(end - frontier_)) - 1;
    const std::uint32_t granule = frontier_;
    frontier_ += length_of(order);
    push_locked(granule, order, Contents::clean);
  }
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

std::optional<Buddy::Taken> Buddy::allocate(GranuleCount granules, GranuleCount alignment) {
  POLDER_CHECK(granules.value > 0 && std::has_single_bit(alignment.value), "bad request to the buddy", granules.value,
               alignment.value);
  if (granules.value > granules_ || alignment.value > granules_) return std::nullopt;
  const os::MutexLock lock(mutex_);
  std::optional<Taken> taken;
  if (granules.value > kHighest || alignment.value > kHighest) {
    taken = take_blocks_locked((granules.value + kHighest - 1) / kHighest,
                               std::max<std::uint64_t>(alignment.value / kHighest, 1));
    if (taken && granules.value <= kHighest) {
      // Aligned beyond the highest order but not larger: an ordinary run at the start of its block.
      const unsigned order = order_for(granules.value);
      split_locked(taken->first.value, kMaxOrder, order, taken->dirty ? Contents::dirty : Contents::clean);
      node(taken->first.value).order = static_cast<std::uint8_t>(order);
    }
  } else {
    const unsigned order = order_for(granules.value);
    taken = take_order_locked(order, std::max(order, order_for(alignment.value)));
  }
  if (taken) allocated_.fetch_add(rounded(granules).value, std::memory_order_relaxed);
  return taken;
}

std::optional<Buddy::Taken> Buddy::take_order_locked(unsigned order, unsigned alignment_order) {
  while (true) {
    if (const std::optional<Taken> taken = take_listed_locked(order, alignment_order)) return taken;
    if (!advance_frontier_locked() && !coalesce_mixed_locked()) return std::nullopt;
  }
}

std::optional<Buddy::Taken> Buddy::take_listed_locked(unsigned order, unsigned alignment_order) {
  for (const Contents contents : {Contents::dirty, Contents::clean}) {
    for (unsigned from = alignment_order; from <= kMaxOrder; ++from) {
      const std::uint32_t granule = heads_[index_of(contents)][from];
      if (granule == kNone) continue;
      remove_locked(granule);
      split_locked(granule, from, order, contents);
      node(granule).state = static_cast<std::uint8_t>(State::allocated);
      node(granule).order = static_cast<std::uint8_t>(order);
      return Taken{{granule}, contents == Contents::dirty};
    }
  }
  return std::nullopt;
}

// First fit over whole blocks, of which those beyond the frontier count as free.
std::optional<Buddy::Taken> Buddy::take_blocks_locked(std::uint64_t blocks, std::uint64_t alignment) {
  const std::uint64_t whole = granules_ / kHighest;
  const auto is_free = [this](std::uint64_t block) POLDER_NO_THREAD_SAFETY_ANALYSIS {
    const auto granule = static_cast<std::uint32_t>(block * kHighest);
    if (granule >= frontier_) return true;
    const State state = state_locked(granule);
    return (state == State::free_clean || state == State::free_dirty) && node(granule).order == kMaxOrder;
  };
  for (bool coalesced = false;; coalesced = true) {
    for (std::uint64_t start = 0; start + blocks <= whole;) {
      std::uint64_t length = 0;
      while (length < blocks && is_free(start + length)) ++length;
      if (length < blocks) {
        start = (start + length + 1 + alignment - 1) / alignment * alignment;
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
      Node& its = node(first);
      its.state = static_cast<std::uint8_t>(blocks == 1 ? State::allocated : State::allocated_blocks);
      its.order = kMaxOrder;
      its.next = blocks == 1 ? 0 : static_cast<std::uint32_t>(blocks);
      return Taken{{first}, dirty};
    }
    if (coalesced || !coalesce_mixed_locked()) return std::nullopt;
  }
}

// --- free -------------------------------------------------------------------------------------------------------------

void Buddy::free(GranuleId first, GranuleCount granules, Contents contents) {
  const os::MutexLock lock(mutex_);
  POLDER_CHECK(granules.value > 0 && first.value + granules.value <= frontier_, "freed run was never handed out",
               first.value, granules.value, frontier_);
  Node& its = node(first.value);
  const GranuleCount taken = rounded(granules);
  if (taken.value > kHighest) {
    const std::uint64_t blocks = taken.value / kHighest;
    POLDER_CHECK(state_locked(first.value) == State::allocated_blocks && its.next == blocks,
                 "freed run is not allocated with that size", first.value, granules.value, its.state, its.next);
    its = {};
    for (std::uint64_t block = 0; block < blocks; ++block) {
      release_locked(static_cast<std::uint32_t>(first.value + block * kHighest), kMaxOrder, contents);
    }
  } else {
    const unsigned order = order_for(granules.value);
    POLDER_CHECK(state_locked(first.value) == State::allocated && its.order == order,
                 "freed run is not allocated with that size", first.value, granules.value, its.state, its.order);
    its = {};
    release_locked(first.value, order, contents);
  }
  allocated_.fetch_sub(taken.value, std::memory_order_relaxed);
}

void Buddy::shrink(GranuleId first, GranuleCount from, GranuleCount to, Contents tail) {
  POLDER_CHECK(to.value > 0 && to <= from, "run does not shrink", to.value, from.value);
  const std::uint64_t before = rounded(from).value;
  const std::uint64_t after = rounded(to).value;
  if (before == after) return;
  const os::MutexLock lock(mutex_);
  POLDER_CHECK(first.value + before <= frontier_, "shrunk run was never handed out", first.value, before, frontier_);
  Node& its = node(first.value);
  unsigned order = order_for(std::min<std::uint64_t>(before, kHighest));
  if (before > kHighest) {
    POLDER_CHECK(state_locked(first.value) == State::allocated_blocks && its.next == before / kHighest,
                 "shrunk run is not allocated with that size", first.value, before, its.state, its.next);
    const std::uint64_t left = std::max<std::uint64_t>(after / kHighest, 1);
    for (std::uint64_t block = left; block < before / kHighest; ++block) {
      release_locked(static_cast<std::uint32_t>(first.value + block * kHighest), kMaxOrder, tail);
    }
    its.state = static_cast<std::uint8_t>(left == 1 ? State::allocated : State::allocated_blocks);
    its.next = left == 1 ? 0 : static_cast<std::uint32_t>(left);
  } else {
    POLDER_CHECK(state_locked(first.value) == State::allocated && its.order == order,
                 "shrunk run is not allocated with that size", first.value, before, its.state, its.order);
  }
  if (after < kHighest) {
    const unsigned target = order_for(after);
    split_locked(first.value, order, target, tail);
    its.order = static_cast<std::uint8_t>(target);
  }
  allocated_.fetch_sub(before - after, std::memory_order_relaxed);
}

std::optional<Buddy::DirtyRun> Buddy::isolate_dirty() {
  const os::MutexLock lock(mutex_);
  for (unsigned order = kOrderCount; order-- > 0;) {
    const std::uint32_t granule = heads_[index_of(Contents::dirty)][order];
    if (granule == kNone) continue;
    remove_locked(granule);
    node(granule).state = static_cast<std::uint8_t>(State::allocated);
    node(granule).order = static_cast<std::uint8_t>(order);
    allocated_.fetch_add(length_of(order), std::memory_order_relaxed);
    return DirtyRun{{granule}, {length_of(order)}};
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
    POLDER_CHECK(its.order <= kMaxOrder && granule % length_of(its.order) == 0, "run is not aligned", granule,
                 its.order);
    std::uint64_t length = length_of(its.order);
    if (state == State::allocated_blocks) {
      POLDER_CHECK(its.order == kMaxOrder && its.next >= 2, "allocated blocks are torn", granule, its.order, its.next);
      length *= its.next;
    }
    POLDER_CHECK(granule + length <= frontier_, "run crosses the frontier", granule, length, frontier_);
    if (state == State::allocated || state == State::allocated_blocks) {
      allocated_granules += length;
    } else {
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
      for (std::uint32_t granule = heads_[index_of(contents)][order]; granule != kNone;
           granule = node(granule).next) {
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
