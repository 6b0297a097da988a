// Eviction: victims into staging, staged clusters into the store, staging pages back to the budget. The mechanism only;
// when and how much is the reclaimer's decision.
//
// The life of an evicted page:
//   1. the policy names its folio; the gate closes; the word goes resident → evicting
//   2. one UFFDIO_MOVE per stretch takes its pages, and those of neighbours that were named with it, to staging windows;
//      evicting → staged; the gates open
//   3. its cluster becomes the oldest: same-filled? unchanged since its retained copy? else a slot, and one write
//   4. the write is complete: the hash is recorded, staged → stored; a page that was taken back meanwhile keeps its life
//   5. the cluster's staging pages are discarded in one call and uncharged
//
// All _locked functions need mutex() (rank reclaim), which is held by one service thread at a time and, during fork, by
// the forking thread; nothing ever waits for it while it serves a fault.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "os/io_engine.h"
#include "os/mutex.h"
#include "os/pagemap.h"
#include "pager/parts.h"

namespace polder {

class Evictor {
 public:
  explicit Evictor(PagerParts& parts) : parts_(parts) {}

  // On a service thread, before anything is evicted: errors as met.
  Errno prepare() { return pagemap_.open(); }

  os::Mutex& mutex() POLDER_RETURN_CAPABILITY(mutex_) { return mutex_; }

  // Step 1 and 2 for one cluster. The pages that left the arena; zero when no cluster is free or no victim is left.
  PageCount stage_victims_locked() POLDER_REQUIRES(mutex_);

  enum class Processed : std::uint8_t {
    none,     // no staged cluster, or `engine` has no room for its writes
    retired,  // nothing had to be written: its pages are free already
    writing,  // on its way; retire_written_locked() frees it
    stuck,    // nothing of it could be stored, swap is full or failing: its pages are back in the arena
  };
  struct ProcessResult {
    Processed what;
    PageCount freed;
  };
  // Step 3. Writes, at most kMaxExtents, are queued on `engine` and submitted, unless more than `in_flight` transfers are
  // on their way there.
  static constexpr unsigned kMaxExtents = 8;  // of one cluster; what does not fit stays staged
  ProcessResult process_oldest_locked(os::IoEngine& engine, unsigned in_flight) POLDER_REQUIRES(mutex_);

  // Step 4 and 5 for every cluster whose writes are complete; the pages freed.
  PageCount retire_written_locked() POLDER_REQUIRES(mutex_);

  // Completions of an engine that carries both reads and writes are told apart by their tags.
  static bool is_write(std::uint64_t tag) { return (tag >> 63) != 0; }
  // Any service thread, no lock.
  void write_completed(const os::IoCompletion& completion);

  // The staged page goes back into the arena by a move, which needs no room: for a fault that finds none. The caller has
  // made the word `filling` (source staged). False when the kernel refuses.
  bool take_back_by_move_locked(PageId page, std::uint32_t staging_page) POLDER_REQUIRES(mutex_);

  bool writes_outstanding() const { return writing_.load(std::memory_order_relaxed) != 0; }
  std::uint32_t clusters_allowed() const { return Staging::clusters_for(parts_.budget.limit()); }

  // Relatives made by fork may share pages from now on; the kernel refuses to move those until they are copied.
  void note_fork() { forked_.store(true, std::memory_order_relaxed); }

  // In a forked child: writes that were on their way belong to the parent; their pages are staged. The mutex, held by
  // the parent's reclaimer during the fork, is free again. The store recounts its references afterwards.
  void reset_in_child() POLDER_NO_THREAD_SAFETY_ANALYSIS;

 private:
  struct Claim;
  struct Stretch {
    std::uint32_t first;
    std::uint32_t end;
    std::uint32_t position;
  };
  Claim claim_locked(const Victim& victim) POLDER_REQUIRES(mutex_);
  void settle_claim(const Claim& claim, std::uint32_t refused);
  PageCount move_neighbours(std::span<const Claim> claims, Cluster& cluster);
  void move_stretch(std::span<const Claim> claims, Stretch stretch, Cluster& cluster);
  void stage_page(PageId page, std::uint32_t position, Cluster& cluster);
  void refuse_page(PageId page);

  bool see(Cluster& cluster);
  void keep_together(Cluster& cluster);
  void decide(StagedPage& staged, const Cluster& cluster);
  bool start_writes(Cluster& cluster, os::IoEngine& engine);
  bool give_up_outdated_copies(Cluster& cluster);
  PageCount retire(Cluster& cluster) POLDER_REQUIRES(mutex_);
  bool settle(StagedPage& staged, const Cluster& cluster);
  bool move_back(PageId page, std::uint32_t number, os::Userfaultfd::Wake wake);
  bool put_back(const StagedPage& staged, const Cluster& cluster);
  void fail_writes(Cluster& cluster);

  os::Mutex mutex_{LockRank::reclaim};
  PagerParts& parts_;
  os::Pagemap pagemap_;
  std::atomic<std::uint32_t> writing_{0};  // clusters being written; atomic: read by the reclaimer's wait
  std::atomic<bool> forked_{false};
  std::uint32_t full_rounds_ POLDER_GUARDED_BY(mutex_) = 0;  // folios looked at while swap was full
};

}  // namespace polder
