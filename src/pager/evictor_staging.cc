// Steps 1 and 2 of an evicted page's life: victims are claimed and moved to staging.
#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

#include "os/mapping.h"
#include "pager/evictor.h"

namespace polder {
namespace {

constexpr std::uint32_t bit(std::uint32_t index) { return std::uint32_t{1} << index; }

}  // namespace

// A victim whose gate is closed: what of it is ours to move, and what no move may cross.
struct Evictor::Claim {
  Victim victim;
  std::uint32_t ours = 0;      // evicting
  std::uint32_t barriers = 0;  // present or about to be, and not ours; and guards
  std::uint32_t stayed = 0;    // the former

  PageId first() const { return first_page(victim.folio); }
  // Of the page that is so many after the first of the first claim, where the folios are neighbours.
  static bool is_set(std::uint32_t Claim::*pages, std::span<const Claim> claims, std::uint32_t page) {
    return (claims[page / kPagesPerFolio].*pages & bit(page % kPagesPerFolio)) != 0;
  }
};

PageCount Evictor::stage_victims_locked() {
  Cluster* const cluster = parts_.staging.take_empty(clusters_allowed());
  if (cluster == nullptr) return {};
  std::array<Claim, Cluster::kFolios> claims;
  std::uint32_t number = 0;
  std::uint32_t pages = 0;
  bool closed_gates = false;
  // What is refused goes back to the lists, and does not come again before the others.
  for (std::uint64_t left = parts_.policy.aged().value;
       left != 0 && number < Cluster::kFolios && pages < Cluster::kEnoughPages; --left) {
    Victim victim;
    if (!parts_.policy.choose(victim)) break;
    // A page of it that had been on its way arrived meanwhile.
    const auto is_same = [&](const Claim& claim) { return claim.victim.folio == victim.folio; };
    const auto claims_end = claims.begin() + number;
    if (const auto same = std::find_if(claims.begin(), claims_end, is_same); same != claims_end) {
      if (const std::uint32_t stayed = victim.pages & same->stayed; stayed != 0) {
        parts_.policy.arrived(victim.folio, static_cast<PageMask>(stayed), Arrival::refused);
      }
      continue;
    }
    claims[number] = claim_locked(victim);
    closed_gates = true;
    if (claims[number].ours == 0) {
      settle_claim(claims[number], 0);
      continue;
    }
    pages += static_cast<std::uint32_t>(std::popcount(claims[number].ours));
    ++number;
  }
  const auto end = claims.begin() + number;
  std::sort(claims.begin(), end, [](const Claim& a, const Claim& b) { return a.victim.folio < b.victim.folio; });
  PageCount evicted;
  for (auto first = claims.begin(); first != end;) {
    auto next = first + 1;
    while (next != end && next->victim.folio == (next - 1)->victim.folio + FolioCount{1} &&
           block_of(next->first()) == block_of(first->first())) {
      ++next;
    }
    evicted += move_neighbours({first, next}, *cluster);
    first = next;
  }
  if (closed_gates) parts_.wakeups.pages_settled();
  if (cluster->count == 0) {
    parts_.staging.give_back(*cluster);
    return {};
  }
  see(*cluster);
  parts_.staging.enqueue(*cluster);
  count(parts_.statistics->reclaim.evictions, evicted.value);
  return evicted;
}

Evictor::Claim Evictor::claim_locked(const Victim& victim) {
  Claim claim{.victim = victim};
  // With swap full only pages that have a stored copy may be able to leave. Now and then all are tried: same-filled pages
  // need no slot, and slots come free.
  const bool only_copies = parts_.store.full() && ++full_rounds_ % 16 != 0;
  parts_.gate.close(victim.folio);
  for (std::uint32_t i = 0; i < kPagesPerFolio; ++i) {
    const PageId page{claim.first().value + i};
    PageWord word = parts_.table.load(page);
    const bool wanted = (victim.pages & bit(i)) != 0;
    while (wanted && word.state() == PageState::resident && (word.retained() || !only_copies)) {
      if (parts_.table.transition(page, word, word.with_state(PageState::evicting))) {
        claim.ours |= bit(i);
        break;
      }
    }
    const PageState state = word.state();
    const bool in_memory =
        state == PageState::resident || state == PageState::filling || state == PageState::evicting;  // a purge's claim
    if ((claim.ours & bit(i)) != 0) continue;
    if (in_memory) claim.stayed |= bit(i);
    if (in_memory || state == PageState::guard) claim.barriers |= bit(i);
  }
  return claim;
}

// Opens the gate; what stays of the victim goes back to the lists. `refused`: of what was ours.
void Evictor::settle_claim(const Claim& claim, std::uint32_t refused) {
  parts_.gate.open(claim.victim.folio);
  const std::uint32_t stayed = (claim.stayed & claim.victim.pages) | refused;
  if (stayed != 0) parts_.policy.arrived(claim.victim.folio, static_cast<PageMask>(stayed), Arrival::refused);
}

// Folios side by side go to windows side by side: one move for all, and one flush of the TLB.
PageCount Evictor::move_neighbours(std::span<const Claim> claims, Cluster& cluster) {
  const std::uint32_t window = cluster.windows;
  cluster.windows += static_cast<std::uint32_t>(claims.size());
  const auto is_ours = [claims](std::uint32_t i) { return Claim::is_set(&Claim::ours, claims, i); };
  const auto is_in_the_way = [claims](std::uint32_t i) { return Claim::is_set(&Claim::barriers, claims, i); };
  const auto end = static_cast<std::uint32_t>(claims.size() * kPagesPerFolio);
  const std::uint32_t before = cluster.count;
  for (std::uint32_t first = 0; first < end;) {
    if (!is_ours(first)) {
      ++first;
      continue;
    }
    std::uint32_t next = first + 1;
    std::uint32_t stretch_end = next;
    for (; next < end && !is_in_the_way(next); ++next) {
      if (is_ours(next)) stretch_end = next + 1;
    }
    move_stretch(claims, {.first = first, .end = stretch_end, .position = window * kPagesPerFolio}, cluster);
    first = next;
  }
  if (cluster.count == before) cluster.windows = window;
  for (const Claim& claim : claims) {
    std::uint32_t refused = 0;
    for (std::uint32_t i = 0; i < kPagesPerFolio; ++i) {
      const bool resident = parts_.table.load(PageId{claim.first().value + i}).state() == PageState::resident;
      if ((claim.ours & bit(i)) != 0 && resident) refused |= bit(i);
    }
    settle_claim(claim, refused);
  }
  return {cluster.count - before};
}

// Pages first … end, counted from the first claim's first, to the cluster's positions from there on.
void Evictor::move_stretch(std::span<const Claim> claims, Stretch stretch, Cluster& cluster) {
  const PageId base = claims.front().first();
  const auto is_ours = [claims](std::uint32_t i) { return Claim::is_set(&Claim::ours, claims, i); };
  auto& [first, end, position] = stretch;
  std::uint32_t limit = end;
  bool copied_on_write = false;
  while (first < end) {
    if (first == limit) limit = end;
    char* const source = parts_.arena.address(PageId{base.value + first});
    char* const destination = parts_.staging.address(parts_.staging.number_of(cluster, position + first));
    const os::Progress progress =
        parts_.uffd.move(destination, source, (limit - first) * kPageSize, os::Userfaultfd::Wake::no);
    const std::uint32_t done = static_cast<std::uint32_t>(progress.done / kPageSize);
    for (std::uint32_t i = first; i < first + done; ++i) {
      if (is_ours(i)) stage_page(PageId{base.value + i}, position + i, cluster);
    }
    first += done;
    if (done != 0) copied_on_write = false;
    if (first >= limit) continue;
    // Where one mapping ends and another begins all of it is refused, and where a part is locked: folio by folio then.
    const std::uint32_t folio_end = (first / kPagesPerFolio + 1) * kPagesPerFolio;
    if ((progress.error.code() == EINVAL || progress.error.code() == ENOENT) && limit > folio_end) {
      limit = folio_end;
      continue;
    }
    // Plugged by an mlockall or for a service thread: nobody's bytes, as windows are not used twice.
    // Only while the page itself is seen where it was: what cannot be looked at is not thrown away.
    if (progress.error.code() == EEXIST &&
        pagemap_.presence(parts_.arena.address(PageId{base.value + first})) == os::Presence::present &&
        os::discard(parts_.staging.address(parts_.staging.number_of(cluster, position + first)), kPageSize).ok()) {
      continue;
    }
    // A page shared with a forked relative is refused until we have a copy of our own. Only stretches of present pages
    // are populated: a hole would fault.
    if (progress.error.code() == EBUSY && forked_.load(std::memory_order_relaxed) && !copied_on_write) {
      copied_on_write = true;
      std::uint32_t shared_end = first;
      while (shared_end < end && is_ours(shared_end)) ++shared_end;
      if (os::populate_writable(parts_.arena.address(PageId{base.value + first}), (shared_end - first) * kPageSize)
              .ok()) {
        continue;
      }
    }
    copied_on_write = false;
    // Pinned, locked, or made inaccessible by the program: it stays.
    if (is_ours(first)) refuse_page(PageId{base.value + first});
    ++first;
  }
}

void Evictor::stage_page(PageId page, std::uint32_t position, Cluster& cluster) {
  const std::uint32_t number = parts_.staging.number_of(cluster, position);
  PageWord word = parts_.table.load(page);
  while (!parts_.table.transition(page, word, word.with_state(PageState::staged).with_staging_page(number))) {
  }
  StagedPage& staged = cluster.pages[cluster.count++];
  staged = StagedPage{};
  staged.page = page;
  staged.position = position;
}

void Evictor::refuse_page(PageId page) {
  PageWord word = parts_.table.load(page);
  while (!parts_.table.transition(page, word, word.with_state(PageState::resident).without_discarded())) {
  }
}

}  // namespace polder
