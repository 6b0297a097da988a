#include "pager/staging.h"

#include <algorithm>
#include <new>

#include "base/check.h"
#include "os/mapping.h"

namespace polder {

std::uint32_t Staging::clusters_for(PageCount limit) {
  // Clusters are rarely full: sparse folios fill them with about 44 pages.
  constexpr std::uint64_t kTypicalPages = 44;
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(limit.value / 16 / kTypicalPages, 4, kMaxClusters));
}

Staging::~Staging() {
  for (std::uint32_t i = 0; i < created_; ++i) os::release(clusters_[i], bytes(pages_up(sizeof(Cluster))));
}

Cluster* Staging::take_empty(std::uint32_t allowed) {
  if (in_use_ >= allowed) return nullptr;
  Cluster* cluster = empty_;
  if (cluster != nullptr) {
    empty_ = cluster->next;
  } else {
    if (created_ == kMaxClusters) return nullptr;
    // Not from the metadata pool: a fault must not wait for a lock that an allocating thread can hold.
    const std::size_t size = bytes(pages_up(sizeof(Cluster)));
    const Result<char*> memory = os::map_private(size);
    if (!memory.ok()) return nullptr;
    budget_.charge_metadata(pages_up(size));
    cluster = new (memory.value) Cluster;
    cluster->index = created_;
    clusters_[created_++] = cluster;
  }
  POLDER_CHECK(cluster->state == ClusterState::empty && cluster->count == 0, "empty cluster", cluster->index,
               cluster->count);
  cluster->next = nullptr;
  cluster->windows = 0;
  cluster->seen.store(false, std::memory_order_relaxed);
  ++in_use_;
  return cluster;
}

void Staging::give_back(Cluster& cluster) {
  POLDER_CHECK(cluster.count == 0 && in_use_ > 0, "cluster has no pages left", cluster.index, cluster.count);
  cluster.state = ClusterState::empty;
  cluster.next = empty_;
  empty_ = &cluster;
  --in_use_;
}

void Staging::enqueue(Cluster& cluster) {
  cluster.state = ClusterState::staged;
  cluster.next = nullptr;
  if (newest_ != nullptr) {
    newest_->next = &cluster;
  } else {
    oldest_ = &cluster;
  }
  newest_ = &cluster;
  ++staged_;
}

Cluster* Staging::dequeue_oldest() {
  Cluster* const cluster = oldest_;
  if (cluster == nullptr) return nullptr;
  oldest_ = cluster->next;
  if (oldest_ == nullptr) newest_ = nullptr;
  cluster->next = nullptr;
  --staged_;
  return cluster;
}

PageCount Staging::pages() const {
  PageCount total;
  for (std::uint32_t i = 0; i < created_; ++i) total += PageCount{clusters_[i]->count};
  return total;
}

}  // namespace polder
