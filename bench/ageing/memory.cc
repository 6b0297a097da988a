#include "ageing/memory.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "os/mapping.h"

namespace polder::bench {
namespace {

using Nodes = MetadataArray<AgeingNode>;

// What is made free at a time.
constexpr std::uint32_t kBatch = 32;
// Of a cluster: folios, pages that are enough, pages that it has on average (pager/staging.h).
constexpr std::uint32_t kFolios = 8;
constexpr std::size_t kEnoughPages = 40;
constexpr std::uint32_t kTypicalPages = 44;

Nodes make_nodes(char* memory, std::uint32_t folios) {
  MetadataSpace space(memory, Nodes::bytes_for(folios));
  Nodes nodes(space, folios);
  POLDER_CHECK(nodes.ensure(folios).ok(), "memory for the nodes", folios);
  return nodes;
}

}  // namespace

Memory::Memory(PolicyKind policy, std::uint32_t folios, std::uint32_t capacity, std::uint32_t staging)
    : metadata_(os::reserve(Nodes::bytes_for(folios), kPageSize).value),
      metadata_size_(Nodes::bytes_for(folios)),
      nodes_(make_nodes(metadata_, folios)),
      policy_(policy, nodes_),
      capacity_(capacity),
      clusters_(std::max(staging / kTypicalPages, 1U)),
      pages_(std::size_t{folios} * kPagesPerFolio) {}

Memory::~Memory() { os::release(metadata_, metadata_size_); }

void Memory::access(PageId page) {
  Page& here = pages_[page.value];
  Arrival how = Arrival::zero;
  switch (here.state) {
    case State::resident:
      return;
    case State::staged:
      ++counts_.soft_faults;
      how = Arrival::staged;
      break;
    case State::stored:
      ++counts_.misses;
      how = Arrival::stored;
      [[fallthrough]];
    case State::untouched:
      if (charged_ == capacity_) make_room();
      ++charged_;
      break;
  }
  here.state = State::resident;
  (*policy_).arrived(folio_of(page), mask_of(page, 1), how);
}

void Memory::make_room() {
  while (charged_ + kBatch > capacity_) {
    while (queue_.size() < clusters_ && stage_cluster()) {
    }
    if (!store_oldest()) break;
  }
  POLDER_CHECK(charged_ < capacity_, "some page can be evicted", charged_, capacity_);
}

// False when there is nothing to stage.
bool Memory::stage_cluster() {
  Cluster cluster;
  Victim victim;
  for (std::uint32_t folios = 0; folios < kFolios && cluster.size() < kEnoughPages;) {
    if (!(*policy_).choose(victim)) break;
    const std::size_t before = cluster.size();
    for (std::uint32_t i = 0; i < kPagesPerFolio; ++i) {
      const PageId page = first_page(victim.folio) + PageCount{i};
      Page& here = pages_[page.value];
      if ((victim.pages >> i & 1) == 0 || here.state != State::resident) continue;
      here = {++stagings_, State::staged};
      cluster.push_back({page, stagings_});
    }
    if (cluster.size() != before) ++folios;
  }
  if (cluster.empty()) return false;
  queue_.push_back(std::move(cluster));
  return true;
}

// False when nothing is staged.
bool Memory::store_oldest() {
  if (queue_.empty()) return false;
  for (const Staged& staged : queue_.front()) {
    Page& here = pages_[staged.page.value];
    if (here.state != State::staged || here.staged_as != staged.number) continue;
    here.state = State::stored;
    --charged_;
    ++counts_.stored;
  }
  queue_.pop_front();
  return true;
}

}  // namespace polder::bench
