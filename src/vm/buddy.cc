#include "vm/buddy.h"

#include <algorithm>
#include <bit>
#include <cstddef>

#include "base/check.h"

namespace polder {

namespace {

// How much larger a run may be that something growing is put into.
constexpr std::uint64_t kRoom = 16;

// How many places are passed by in the search for one that is wholly clean, or wholly dirty.
constexpr unsigned kLooks = 64;

// Where the dirtiest place is looked for: so many dirty granules, and at least this part of the length. Of longer runs
// programs touch little, and to look takes time.
constexpr std::uint64_t kFewDirty = 8;
constexpr std::uint64_t kDirtyPart = 16;
constexpr std::uint64_t kLongestLook = 512;

// Marks the length of a room, which lies behind a run's end.
constexpr std::uint32_t kRoomBit = std::uint32_t{1} << 31;

constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t step) { return (value + step - 1) / step * step; }

// The first set bit of words at or after `from`, the number of bits when there is none.
template <typename Words, typename Flip>
unsigned next_bit(const Words& words, unsigned from, Flip flip) {
  for (unsigned i = from / 64; i < words.size(); ++i) {
    const std::uint64_t word = flip(words[i]) & (i == from / 64 ? ~std::uint64_t{0} << (from % 64) : ~std::uint64_t{0});
    if (word != 0) return i * 64 + static_cast<unsigned>(std::countr_zero(word));
  }
  return static_cast<unsigned>(words.size() * 64);
}

constexpr auto kSet = [](std::uint64_t word) { return word; };
constexpr auto kClear = [](std::uint64_t word) { return ~word; };

}  // namespace

Buddy::Buddy(MetadataSpace& space, GranuleCount granules)
    : chunks_(space, round_up(granules.value, kChunkGranules) / kChunkGranules), granules_(granules.value) {
  POLDER_CHECK(granules.value > 0 && granules.value < kRoomBit, "buddy of so many granules", granules.value);
  // What every process needs, while the code for it is there anyway; without memory the first allocation tries again.
  static_cast<void>(advance_frontier_locked());
}

std::size_t Buddy::metadata_bytes(GranuleCount granules) {
  return MetadataArray<Chunk>::bytes_for(round_up(granules.value, kChunkGranules) / kChunkGranules);
}

std::size_t Buddy::metadata_bytes_in_use(GranuleCount granules) {
  return granules.value * sizeof(std::uint32_t) +
         round_up(granules.value, kChunkGranules) / kChunkGranules * offsetof(Chunk, lengths);
}

std::uint64_t Buddy::rounded(std::uint64_t granules) { return std::bit_ceil(granules); }

// --- leaves and their tree --------------------------------------------------------------------------------------------

Buddy::Free Buddy::free_of(const Words& used) {
  Free free{};
  unsigned begin = next_bit(used, 0, kClear);
  while (begin < kLeafGranules) {
    const unsigned end = next_bit(used, begin, kSet);
    if (begin == 0) free.prefix = end;
    if (end == kLeafGranules) free.suffix = end - begin;
    free.longest = std::max<std::uint32_t>(free.longest, end - begin);
    begin = next_bit(used, end, kClear);
  }
  return free;
}

// `length`: of each of the two.
Buddy::Free Buddy::joined(const Free& low, const Free& high, std::uint32_t length) {
  return {.prefix = low.prefix == length ? length + high.prefix : low.prefix,
          .suffix = high.suffix == length ? length + low.suffix : high.suffix,
          .longest = std::max({low.longest, high.longest, low.suffix + high.prefix})};
}

// Applies change(leaf, word, mask) to the granules' bits, then tells the tree.
template <typename Change>
void Buddy::change_locked(std::uint64_t first, std::uint64_t end, Change change) {
  for (std::uint64_t at = first; at < end;) {
    const auto start = static_cast<unsigned>(at % 64);
    const std::uint64_t length = std::min<std::uint64_t>(end - at, 64 - start);
    const std::uint64_t mask = (length == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << length) - 1) << start;
    change(leaf(at), at % kLeafGranules / 64, mask);
    at += length;
  }
  summarise_locked(first, end);
}

void Buddy::summarise_locked(std::uint64_t first, std::uint64_t end) {
  for (std::uint64_t at = first; at < end;) {
    Chunk& chunk = chunks_[at / kChunkGranules];
    const std::uint64_t chunk_end = std::min(end, (at / kChunkGranules + 1) * kChunkGranules);
    const auto low = static_cast<unsigned>(at % kChunkGranules / kLeafGranules);
    const auto high = static_cast<unsigned>((chunk_end - 1) % kChunkGranules / kLeafGranules);
    for (unsigned i = low; i <= high; ++i) {
      const Leaf& its = chunk.leaves[i];
      chunk.nodes[kLeavesPerChunk + i] = free_of(its.used);
      const std::uint64_t bit = std::uint64_t{1} << i;
      const bool dirty = std::any_of(its.dirty.begin(), its.dirty.end(), [](std::uint64_t word) { return word != 0; });
      chunk.dirty_leaves = dirty ? chunk.dirty_leaves | bit : chunk.dirty_leaves & ~bit;
    }
    join(chunk, low, high);
    at = chunk_end;
  }
}

// The nodes above the leaves low … high of the chunk.
void Buddy::join(Chunk& chunk, unsigned low, unsigned high) {
  low += kLeavesPerChunk;
  high += kLeavesPerChunk;
  for (std::uint32_t length = kLeafGranules; length < kChunkGranules; length *= 2) {
    low /= 2;
    high /= 2;
    for (unsigned node = low; node <= high; ++node) {
      chunk.nodes[node] = joined(chunk.nodes[2 * node], chunk.nodes[2 * node + 1], length);
    }
  }
}

void Buddy::take_locked(std::uint64_t first, std::uint64_t end) {
  std::uint64_t dirty = 0;
  change_locked(first, end, [&](Leaf& leaf, std::size_t word, std::uint64_t mask) {
    POLDER_CHECK((leaf.used[word] & mask) == 0, "run is not free", first, end);
    leaf.used[word] |= mask;
    dirty += static_cast<unsigned>(std::popcount(leaf.dirty[word] & mask));
    leaf.dirty[word] &= ~mask;
  });
  allocated_.fetch_add(end - first, std::memory_order_relaxed);
  if (dirty != 0) dirty_.fetch_sub(dirty, std::memory_order_relaxed);
}

void Buddy::release_locked(std::uint64_t first, std::uint64_t end, Contents contents) {
  if (first == end) return;
  change_locked(first, end, [&](Leaf& leaf, std::size_t word, std::uint64_t mask) {
    POLDER_CHECK((leaf.used[word] & mask) == mask, "run is free already", first, end);
    leaf.used[word] &= ~mask;
    if (contents == Contents::dirty) leaf.dirty[word] |= mask;
  });
  allocated_.fetch_sub(end - first, std::memory_order_relaxed);
  if (contents == Contents::dirty) dirty_.fetch_add(end - first, std::memory_order_relaxed);
}

// A chunk more, or the arena's tail, behind which everything is used.
bool Buddy::advance_frontier_locked() {
  if (frontier_ == granules_) return false;
  const std::uint64_t chunk = frontier_ / kChunkGranules;
  const std::uint64_t end = std::min(frontier_ + kChunkGranules, granules_);
  const std::uint64_t leaves_end = round_up(end, kLeafGranules);
  if (!chunks_.ensure(chunk + 1).ok()) return false;
  for (std::uint64_t granule = end; granule < leaves_end; ++granule) {
    leaf(granule).used[granule % kLeafGranules / 64] |= std::uint64_t{1} << (granule % 64);
  }
  // Leaves that are wholly free are not looked at: to read them would cost every process 16 page faults.
  const auto free_leaves = static_cast<unsigned>((end - frontier_) / kLeafGranules);
  Chunk& its = chunks_[chunk];
  std::fill_n(its.nodes.begin() + kLeavesPerChunk, free_leaves, Free{kLeafGranules, kLeafGranules, kLeafGranules});
  if (free_leaves != 0) join(its, 0, free_leaves - 1);
  if (end != leaves_end) summarise_locked(leaves_end - kLeafGranules, end);
  frontier_ = end;
  return true;
}

bool Buddy::is_used_locked(std::uint64_t granule) const {
  return (leaf(granule).used[granule % kLeafGranules / 64] >> (granule % 64) & 1) != 0;
}

bool Buddy::is_dirty_locked(std::uint64_t granule) const {
  return (leaf(granule).dirty[granule % kLeafGranules / 64] >> (granule % 64) & 1) != 0;
}

template <typename Flip>
std::uint64_t Buddy::next_locked(Words Leaf::*words, Flip flip, std::uint64_t first, std::uint64_t end) const {
  while (first < end) {
    const std::uint64_t base = first / kLeafGranules * kLeafGranules;
    const unsigned bit = next_bit(leaf(first).*words, static_cast<unsigned>(first - base), flip);
    if (bit != kLeafGranules) return std::min(base + bit, end);
    first = base + kLeafGranules;
  }
  return end;
}

std::uint64_t Buddy::next_used_locked(std::uint64_t first, std::uint64_t end) const {
  return next_locked(&Leaf::used, kSet, first, end);
}

std::uint64_t Buddy::next_dirty_locked(std::uint64_t first, std::uint64_t end) const {
  return next_locked(&Leaf::dirty, kSet, first, end);
}

// Granules of the room behind a run that ends there.
std::uint64_t Buddy::room_locked(std::uint64_t end) const {
  if (end >= frontier_) return 0;
  const std::uint32_t length = length_at(end);
  return (length & kRoomBit) != 0 ? length & ~kRoomBit : 0;
}

void Buddy::set_room_locked(std::uint64_t first, std::uint64_t length) {
  if (length != 0) length_at(first) = kRoomBit | static_cast<std::uint32_t>(length);
}

void Buddy::require_allocated_locked(GranuleId first, GranuleCount granules) const {
  POLDER_CHECK(granules.value > 0 && first.value + granules.value <= frontier_, "run was never handed out", first.value,
               granules.value, frontier_);
  POLDER_CHECK(length_at(first.value) == granules.value && is_used_locked(first.value),
               "run is not allocated with that size", first.value, granules.value, length_at(first.value));
}

// --- search -----------------------------------------------------------------------------------------------------------

bool Buddy::search_leaf_locked(Search& search, std::uint64_t first) const {
  const Words& used = leaf(first).used;
  unsigned at = search.from > first ? static_cast<unsigned>(search.from - first) : 0;
  while (at < kLeafGranules) {
    const unsigned end = next_bit(used, at, kSet);
    if (first + end - search.start >= search.length) {
      search.found = search.start;
      return true;
    }
    if (end == kLeafGranules) return false;
    at = next_bit(used, end, kClear);
    search.start = first + at;
  }
  return false;
}

// `length` granules from `first`, which nothing but the end of is before the search's beginning.
bool Buddy::search_node_locked(Search& search, const Chunk& chunk, unsigned node, std::uint64_t first,
                               std::uint32_t length) const {
  if (first + length <= search.from) return false;
  if (first >= search.from) {
    const Free& free = chunk.nodes[node];
    if (first + free.prefix - search.start >= search.length) {
      search.found = search.start;
      return true;
    }
    if (free.longest < search.length) {
      if (free.suffix != length) search.start = first + length - free.suffix;
      return false;
    }
  }
  if (length == kLeafGranules) return search_leaf_locked(search, first);
  return search_node_locked(search, chunk, 2 * node, first, length / 2) ||
         search_node_locked(search, chunk, 2 * node + 1, first + length / 2, length / 2);
}

// The lowest `length` free granules at or after `from`; kNowhere when there are none. Advances the frontier for them.
std::uint64_t Buddy::first_fit_locked(std::uint64_t from, std::uint64_t length) {
  Search search{.from = from, .length = length, .start = from, .found = kNowhere};
  for (std::uint64_t first = from / kChunkGranules * kChunkGranules;; first += kChunkGranules) {
    while (first >= frontier_) {
      if (search.start + length > granules_ || !advance_frontier_locked()) return kNowhere;
    }
    if (search_node_locked(search, chunks_[first / kChunkGranules], 1, first, kChunkGranules)) return search.found;
  }
}

// The first dirty granule at or after `from`; the frontier when there is none.
std::uint64_t Buddy::first_dirty_locked(std::uint64_t from) const {
  for (std::uint64_t base = from / kChunkGranules * kChunkGranules; base < frontier_; base += kChunkGranules) {
    const std::uint64_t skipped = from > base ? (from - base) / kLeafGranules : 0;
    std::uint64_t leaves = chunks_[base / kChunkGranules].dirty_leaves >> skipped << skipped;
    for (; leaves != 0; leaves &= leaves - 1) {
      const std::uint64_t first = base + static_cast<unsigned>(std::countr_zero(leaves)) * std::uint64_t{kLeafGranules};
      const std::uint64_t end = first + kLeafGranules;
      if (const std::uint64_t found = next_dirty_locked(std::max(first, from), end); found != end) return found;
    }
  }
  return frontier_;
}

// Dirty granules only: the shortest stretch of those that are looked at.
std::uint64_t Buddy::dirty_fit_locked(std::uint64_t length, std::uint64_t alignment) const {
  if (dirty().value < length) return kNowhere;
  std::uint64_t best = kNowhere;
  std::uint64_t best_length = UINT64_MAX;
  std::uint64_t at = first_dirty_locked(0);
  for (unsigned looks = 0; looks < kLooks && at < frontier_ && best_length != length; ++looks) {
    const std::uint64_t end = next_locked(&Leaf::dirty, kClear, at, frontier_);
    const std::uint64_t first = round_up(at, alignment);
    if (first + length <= end && end - at < best_length) {
      best = first;
      best_length = end - at;
    }
    at = first_dirty_locked(end);
  }
  return best;
}

// Where the most of the granules is dirty, of the places that begin or end with a stretch of such.
std::uint64_t Buddy::dirtiest_fit_locked(std::uint64_t length, std::uint64_t alignment) const {
  std::uint64_t best = kNowhere;
  std::uint64_t most = (length - 1) / kDirtyPart;
  const auto look = [&](std::uint64_t first) POLDER_REQUIRES(mutex_) {
    if (first + length > frontier_ || next_used_locked(first, first + length) != first + length) return;
    std::uint64_t dirty = 0;
    for (std::uint64_t at = next_dirty_locked(first, first + length); at != first + length;) {
      const std::uint64_t end = next_locked(&Leaf::dirty, kClear, at, first + length);
      dirty += end - at;
      at = next_dirty_locked(end, first + length);
    }
    if (dirty <= most) return;
    best = first;
    most = dirty;
  };
  std::uint64_t at = first_dirty_locked(0);
  for (unsigned looks = 0; looks < kLooks && at < frontier_; ++looks) {
    const std::uint64_t end = next_locked(&Leaf::dirty, kClear, at, frontier_);
    look(round_up(at, alignment));
    if (end >= length) look((end - length) / alignment * alignment);
    at = first_dirty_locked(end);
  }
  return best;
}

// The same, aligned.
std::uint64_t Buddy::aligned_fit_locked(std::uint64_t from, std::uint64_t length, std::uint64_t alignment) {
  std::uint64_t found = first_fit_locked(from, length);
  while (found != kNowhere && found % alignment != 0) found = first_fit_locked(round_up(found, alignment), length);
  return found;
}

std::uint64_t Buddy::clean_fit_locked(std::uint64_t length, std::uint64_t alignment) {
  std::uint64_t from = 0;
  for (unsigned looks = 0; looks < kLooks; ++looks) {
    const std::uint64_t found = first_fit_locked(from, length);
    if (found == kNowhere) return kNowhere;
    if (found % alignment != 0) {
      from = round_up(found, alignment);
      continue;
    }
    from = next_dirty_locked(found, found + length);
    if (from == found + length) return found;
    from = next_locked(&Leaf::dirty, kClear, from, found + length);
  }
  for (std::uint64_t chunk = frontier_ / kChunkGranules + 1; chunk-- > 0;) {
    if (chunk * kChunkGranules >= frontier_ || chunks_[chunk].dirty_leaves == 0) continue;
    const auto last = static_cast<unsigned>(std::bit_width(chunks_[chunk].dirty_leaves)) - 1;
    return aligned_fit_locked(chunk * kChunkGranules + (last + 1) * kLeafGranules, length, alignment);
  }
  return aligned_fit_locked(0, length, alignment);
}

// Room is looked for as far as the frontier does not advance by chunks that nobody comes to use.
std::uint64_t Buddy::roomy_fit_locked(std::uint64_t length, std::uint64_t alignment) {
  for (std::uint64_t room = kRoom; room > 1; room /= 2) {
    if (length * room > kChunkGranules) continue;
    const std::uint64_t found = aligned_fit_locked(0, length * room, alignment);
    if (found != kNowhere) return found;
  }
  return kNowhere;
}

// --- allocate and free ------------------------------------------------------------------------------------------------

std::optional<Buddy::Taken> Buddy::allocate(GranuleCount granules, GranuleCount alignment, Fit fit) {
  POLDER_CHECK(granules.value > 0 && std::has_single_bit(alignment.value), "bad request to the buddy", granules.value,
               alignment.value);
  if (granules.value > granules_ || alignment.value > granules_) return std::nullopt;
  const os::MutexLock lock(mutex_);
  const std::uint64_t length = granules.value;
  std::uint64_t first = kNowhere;
  if (fit != Fit::clean) first = dirty_fit_locked(length, alignment.value);
  if (first == kNowhere && fit == Fit::tight && length <= kLongestLook && dirty().value >= kFewDirty)
    first = dirtiest_fit_locked(length, alignment.value);
  if (first == kNowhere && fit == Fit::roomy) first = roomy_fit_locked(length, alignment.value);
  if (fit == Fit::clean) {
    first = clean_fit_locked(rounded(length), alignment.value);
    if (first == kNowhere) first = clean_fit_locked(length, alignment.value);
  }
  if (first == kNowhere) first = aligned_fit_locked(0, length, alignment.value);
  if (first == kNowhere) return std::nullopt;

  std::uint64_t end = first + length;
  Taken taken{.first = {static_cast<std::uint32_t>(first)}, .dirty = next_dirty_locked(first, end) != end};
  for (std::uint64_t next = first; taken.dirty && next < std::min(end, first + 64); ++next) {
    taken.dirty_granules |= std::uint64_t{is_dirty_locked(next)} << (next - first);
  }
  if (fit != Fit::tight) {
    // Room is free only while nothing is resident there.
    const std::uint64_t room_end = std::min(first + rounded(length), frontier_);
    end = std::min(next_used_locked(end, room_end), next_dirty_locked(end, room_end));
  }
  take_locked(first, end);
  length_at(first) = static_cast<std::uint32_t>(length);
  set_room_locked(first + length, end - first - length);
  return taken;
}

void Buddy::free(GranuleId first, GranuleCount granules, Contents contents) {
  const os::MutexLock lock(mutex_);
  require_allocated_locked(first, granules);
  const std::uint64_t end = first.value + granules.value;
  const std::uint64_t room = room_locked(end);
  length_at(first.value) = 0;
  release_locked(first.value, end, contents);
  if (room == 0) return;
  length_at(end) = 0;
  release_locked(end, end + room, Contents::clean);
}

void Buddy::shrink(GranuleId first, GranuleCount from, GranuleCount to, Contents tail) {
  POLDER_CHECK(to.value > 0 && to <= from, "run does not shrink", to.value, from.value);
  const os::MutexLock lock(mutex_);
  require_allocated_locked(first, from);
  const std::uint64_t end = first.value + from.value;
  if (const std::uint64_t room = room_locked(end); room != 0) {
    length_at(end) = 0;
    release_locked(end, end + room, Contents::clean);
  }
  length_at(first.value) = static_cast<std::uint32_t>(to.value);
  release_locked(first.value + to.value, end, tail);
}

bool Buddy::extend(GranuleId first, GranuleCount from, GranuleCount to) {
  POLDER_CHECK(to >= from, "run does not grow", to.value, from.value);
  const os::MutexLock lock(mutex_);
  require_allocated_locked(first, from);
  const std::uint64_t old_end = first.value + from.value;
  const std::uint64_t end = first.value + to.value;
  const std::uint64_t room_end = old_end + room_locked(old_end);
  if (end > room_end) {
    if (end > granules_ || next_used_locked(room_end, std::min(end, frontier_)) < std::min(end, frontier_))
      return false;
    while (frontier_ < end) {
      if (!advance_frontier_locked()) return false;
    }
    take_locked(room_end, end);
  }
  if (room_end != old_end) length_at(old_end) = 0;
  if (end < room_end) set_room_locked(end, room_end - end);
  length_at(first.value) = static_cast<std::uint32_t>(to.value);
  return true;
}

std::optional<Buddy::DirtyRun> Buddy::isolate_dirty(GranuleCount most) {
  const os::MutexLock lock(mutex_);
  if (dirty().value == 0) return std::nullopt;
  for (std::uint64_t chunk = round_up(frontier_, kChunkGranules) / kChunkGranules; chunk-- > 0;) {
    if (chunks_[chunk].dirty_leaves == 0) continue;
    const auto last = static_cast<unsigned>(std::bit_width(chunks_[chunk].dirty_leaves)) - 1;
    std::uint64_t end = chunk * kChunkGranules + std::uint64_t{last + 1} * kLeafGranules;
    while (!is_dirty_locked(end - 1)) --end;
    std::uint64_t first = end - 1;
    while (first != 0 && end - first < most.value && is_dirty_locked(first - 1)) --first;
    take_locked(first, end);
    length_at(first) = static_cast<std::uint32_t>(end - first);
    return DirtyRun{{static_cast<std::uint32_t>(first)}, {end - first}};
  }
  return std::nullopt;
}

// --- statistics and verification --------------------------------------------------------------------------------------

Buddy::Statistics Buddy::statistics() const {
  const os::MutexLock lock(mutex_);
  Statistics statistics;
  statistics.dirty = dirty();
  statistics.allocated = allocated();
  statistics.frontier = {frontier_};
  statistics.free = {frontier_ - allocated().value};
  for (std::uint64_t first = 0; first < frontier_;) {
    first = next_locked(&Leaf::used, kClear, first, frontier_);
    const std::uint64_t end = next_used_locked(first, frontier_);
    // In aligned blocks, as large as they can be.
    while (first < end) {
      const auto order = std::min({static_cast<unsigned>(std::countr_zero(first)),
                                   static_cast<unsigned>(std::bit_width(end - first)) - 1, kMaxOrder});
      ++statistics.free_runs[order];
      first += std::uint64_t{1} << order;
    }
  }
  return statistics;
}

void Buddy::verify() const {
  const os::MutexLock lock(mutex_);
  POLDER_CHECK(frontier_ == granules_ || frontier_ % kChunkGranules == 0, "frontier inside a chunk", frontier_);
  for (std::uint64_t first = 0; first < frontier_; first += kLeafGranules) verify_leaf_locked(first);
  for (std::uint64_t chunk = 0; chunk * kChunkGranules < frontier_; ++chunk) {
    std::uint32_t length = kChunkGranules / 2;
    for (unsigned node = 1; node < kLeavesPerChunk; ++node) {
      const auto& nodes = chunks_[chunk].nodes;
      if (node != 1 && std::has_single_bit(node)) length /= 2;
      const Free expected = joined(nodes[2 * node], nodes[2 * node + 1], length);
      POLDER_CHECK(expected.prefix == nodes[node].prefix && expected.suffix == nodes[node].suffix &&
                       expected.longest == nodes[node].longest,
                   "a node of the buddies' tree is wrong", chunk, node);
    }
  }
  verify_runs_locked();
}

void Buddy::verify_leaf_locked(std::uint64_t first) const {
  const Leaf& its = leaf(first);
  const Chunk& chunk = chunks_[first / kChunkGranules];
  const auto index = static_cast<unsigned>(first % kChunkGranules / kLeafGranules);
  const Free expected = free_of(its.used);
  const Free& node = chunk.nodes[kLeavesPerChunk + index];
  POLDER_CHECK(expected.prefix == node.prefix && expected.suffix == node.suffix && expected.longest == node.longest,
               "a leaf of the buddies' tree is wrong", first);
  bool dirty = false;
  for (unsigned i = 0; i < kWords; ++i) {
    POLDER_CHECK((its.dirty[i] & its.used[i]) == 0, "used granules are dirty", first, i);
    dirty |= its.dirty[i] != 0;
  }
  POLDER_CHECK(dirty == ((chunk.dirty_leaves >> index & 1) != 0), "a chunk does not know its dirty leaves", first);
}

// Every used granule belongs to one run, or to the room behind one.
void Buddy::verify_runs_locked() const {
  std::uint64_t allocated_granules = 0;
  std::uint64_t dirty_granules = 0;
  bool behind_a_run = false;
  for (std::uint64_t granule = 0; granule < frontier_;) {
    const std::uint32_t length = length_at(granule) & ~kRoomBit;
    if (!is_used_locked(granule)) {
      POLDER_CHECK(length_at(granule) == 0, "free granule has a length", granule, length_at(granule));
      dirty_granules += is_dirty_locked(granule);
      behind_a_run = false;
      ++granule;
      continue;
    }
    POLDER_CHECK(length != 0 && granule + length <= frontier_, "granule in no run", granule, length);
    const bool room = (length_at(granule) & kRoomBit) != 0;
    POLDER_CHECK(!room || behind_a_run, "room without a run", granule, length);
    for (std::uint64_t inside = granule + 1; inside < granule + length; ++inside) {
      POLDER_CHECK(is_used_locked(inside) && length_at(inside) == 0, "run inside a run", granule, inside);
    }
    behind_a_run = !room;
    allocated_granules += length;
    granule += length;
  }
  POLDER_CHECK(dirty_granules == dirty().value, "count of dirty granules is wrong", dirty_granules, dirty().value);
  POLDER_CHECK(allocated_granules == allocated().value, "count of allocated granules is wrong", allocated_granules,
               allocated().value);
}

}  // namespace polder
