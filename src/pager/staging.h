// The staging area: where victims wait, out of the application's reach but still in memory, before their bytes are
// stored. A page that is wanted in time is taken back for the price of a copy, and has told us that it is hot.
//
//   area      kMaxClusters clusters of kPositions page positions of address space. A folio's pages keep their offsets
//             in one of the cluster's kFolios windows, so that one move serves the whole folio, holes included, and
//             neighbours that have windows side by side
//   cluster   empty ─► staged ─► writing ─► empty (or staged again, with what could not be stored)
//   order     staged clusters queue; the oldest is processed first: staging is the second chance's clock hand
//   charge    every staged page stays charged until its staging page is discarded
//
// Everything but the atomics of Cluster is guarded by the evictor's mutex.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>

#include "base/units.h"
#include "store/location.h"
#include "store/page_hash.h"
#include "vm/budget.h"
#include "vm/metadata.h"
#include "vm/page_table.h"

namespace polder {

enum class ClusterState : std::uint8_t { empty, staged, writing };

// What became of a staged page when its cluster was processed.
enum class Outcome : std::uint8_t {
  undecided,
  gone,     // taken back by a fault, or freed: only the staging page is left
  dropped,  // its owner freed it while it was staged
  clean,    // the retained location still holds the same bytes
  pattern,  // same-filled: `location` names the pattern
  written,  // `location` receives the bytes
  kept,     // could not be stored
};

struct StagedPage {
  PageId page;
  std::uint32_t position = 0;  // within the cluster
  Outcome outcome = Outcome::undecided;
  Location location;
  PageHash hash{};
};

struct Cluster {
  static constexpr std::uint32_t kFolios = 8;
  static constexpr std::uint32_t kPositions = kFolios * kPagesPerFolio;
  static constexpr std::uint32_t kMaxPages = 56;     // fits the vectors of one write
  static constexpr std::uint32_t kEnoughPages = 40;  // no further folio is added

  ClusterState state = ClusterState::empty;
  std::uint32_t index = 0;
  std::uint32_t count = 0;
  std::uint32_t windows = 0;  // folio windows used
  Cluster* next = nullptr;    // in the queue of staged clusters
  StagedPage pages[kMaxPages];
  iovec vectors[kMaxPages];
  // Writes on their way. Atomic: whichever service thread reaps a completion counts it down (release); the evictor
  // reads zero (acquire) before it looks at `failed`.
  std::atomic<std::uint32_t> pending{0};
  std::atomic<int> failed{0};  // errno of a write that failed, 0 when none did
  // The kernel was asked whether every page is there. Atomic: faults read it; a page word says staged before it is set
  // anew (release, acquire).
  std::atomic<bool> seen{false};
};

class Staging {
 public:
  static constexpr std::uint32_t kMaxClusters = 256;
  static constexpr std::size_t kClusterBytes = std::size_t{Cluster::kPositions} * kPageSize;
  static constexpr std::size_t kAreaBytes = kMaxClusters * kClusterBytes;
  static_assert(kMaxClusters * Cluster::kPositions <= PageWord::kStagingPages);

  // `area` is kAreaBytes of reserved address space.
  Staging(char* area, Budget& budget) : area_(area), budget_(budget) {}
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  char* area() const { return area_; }
  bool contains(std::uintptr_t address) const { return address - reinterpret_cast<std::uintptr_t>(area_) < kAreaBytes; }

  // Clusters that a limit should be worked with: a sixteenth of it, between 4 and kMaxClusters.
  static std::uint32_t clusters_for(PageCount limit);

  // An empty cluster, if fewer than `allowed` are in use. Null when none.
  Cluster* take_empty(std::uint32_t allowed);
  void give_back(Cluster& cluster);

  void enqueue(Cluster& cluster);
  Cluster* dequeue_oldest();
  std::uint32_t staged() const { return staged_; }

  // In a forked child: staging pages, all of which fork copied.
  PageCount pages() const;

  Cluster& cluster(std::uint32_t index) { return *clusters_[index]; }
  std::uint32_t created() const { return created_; }

  // Staging page numbers run through the whole area; page words carry them.
  std::uint32_t number_of(const Cluster& cluster, std::uint32_t position) const {
    return cluster.index * Cluster::kPositions + position;
  }
  char* address(std::uint32_t number) const { return area_ + std::size_t{number} * kPageSize; }
  Cluster& cluster_of(std::uint32_t number) { return *clusters_[number / Cluster::kPositions]; }

 private:
  char* const area_;
  Budget& budget_;
  Cluster* clusters_[kMaxClusters] = {};
  std::uint32_t created_ = 0;
  std::uint32_t in_use_ = 0;
  std::uint32_t staged_ = 0;
  Cluster* empty_ = nullptr;
  Cluster* oldest_ = nullptr;
  Cluster* newest_ = nullptr;
};

}  // namespace polder
