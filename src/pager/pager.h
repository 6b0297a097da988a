// The pager: owns the paging parts, decides when they come to life, and carries them over a fork.
//
//   idle      no thread, no descriptor, no registration exists; runs are native
//   arming    the low watermark was passed: one allocating thread starts the service threads
//   armed     the fault loop and the reclaimer run, in a descriptor table of their own
//   impossible  the kernel refuses what paging needs: the limit is hard, allocations fail at it
//
// Allocating threads call provide() and friends through backing(); the fork functions are called by the forking thread
// around fork(2) in the order prepare, then parent or child.
#pragma once

#include <atomic>
#include <cstdint>

#include "os/io_engine.h"
#include "os/thread.h"
#include "pager/parts.h"
#include "pager/policy/kind.h"
#include "pager/provider.h"
#include "pager/service.h"
#include "pager/thread_cpus.h"
#include "pager/wakeups.h"
#include "store/store.h"
#include "vm/arena.h"
#include "vm/budget.h"
#include "vm/metadata.h"

namespace polder {

// While the C library creates a thread it allocates; what it gets then must never be evicted.
struct AllocationHooks {
  void (*enter_unevictable)() = [] {};
  void (*leave_unevictable)() = [] {};
};

struct PagerOptions {
  const char* swap_directory = "/var/tmp";  // must stay valid
  std::uint64_t swap_bytes = 0;             // 0: what the filesystem has free less 5 %
  os::IoBackend io = os::IoBackend::automatic;
  PolicyKind policy = kDefaultPolicy;
  AllocationHooks hooks;
  void (*attend)() = [] {};  // called by the reclaimer, which holds no lock then, at least once a second
};

class Pager final : public PressureRelief {
 public:
  // What the pager takes from the metadata space for an arena of `pages`, and per committed chunk of the arena.
  static std::size_t metadata_bytes(PageCount pages);
  static std::size_t metadata_bytes_per_chunk();

  Pager(const PagerOptions& options, Arena& arena, MetadataSpace& space, MetadataPool& pool, Budget& budget,
        PageCount metadata_per_chunk, StatisticsSegment& statistics);
  // Tests: ends the service threads. No thread may use the arena any more.
  ~Pager();

  Backing& backing() { return provider_; }
  // Before allow_threads().
  void set_heap(const HeapParts& heap) { heap_ = heap; }
  ThreadCpus& thread_cpus() { return thread_cpus_; }
  Pageblocks& blocks() { return blocks_; }
  const PageTable& table() const { return table_; }
  void set_statistics(StatisticsSegment& statistics) { statistics_ = &statistics; }
  // Checks what can be checked while threads run. Any thread that holds no lock.
  void verify() const { provider_.verify(); }
  // Brings the gauges of the statistics up to date.
  void publish_gauges() { polder::publish_gauges(vm_); }

  // The process can start threads now (its constructors run). Until then nothing is evicted, and allocations beyond the
  // limit fail.
  void allow_threads() { threads_allowed_.store(true, std::memory_order_relaxed); }

  // After the budget's limit was lowered: waits until what is charged fits. ETIMEDOUT when nothing more can be evicted;
  // the limit stays, allocations fail until it fits.
  Errno shrink_to_limit();
  // The same without waiting: EAGAIN while pages are being evicted, or will be once threads are allowed; ETIMEDOUT, or
  // EOPNOTSUPP when there is no paging here.
  Errno begin_to_fit();

  void drop_contents(Run run) { provider_.drop_contents(run); }
  // True when the page of the arena is in memory as far as the tables know.
  bool is_resident(PageId page) const;

  bool armed() const { return phase_.load(std::memory_order_acquire) == kArmed; }

  // Forking thread. prepare: on return nothing is evicted any more, and what the child needs is open in this thread's
  // descriptor table. No lock of the heap may be held.
  void fork_prepare();
  void fork_parent();
  // From prepare until the process is made, and in the parent from then on. Whoever is made without finds none of the
  // memory that can be evicted. (The analysis does not know that the converter's mutex is the same one.)
  void hand_on_memory_locked() POLDER_REQUIRES(blocks().mutex()) POLDER_NO_THREAD_SAFETY_ANALYSIS;
  void withhold_memory_locked() POLDER_REQUIRES(blocks().mutex()) POLDER_NO_THREAD_SAFETY_ANALYSIS;
  // In the child, all heap and vm locks free again: on return its own pager serves its faults. Ends the child with a
  // report when that cannot be: wrong bytes are no alternative.
  void fork_child();

  // In a child that was made while nothing was evicted, without the three: it can page by itself. Async-signal-safe. Ends
  // the child with a report when paging began in that moment.
  void begin_in_bare_child();

  // PressureRelief
  void relieve() override;
  bool was_needed() const override { return was_needed_.load(std::memory_order_relaxed); }
  bool make_room(PageCount pages) override;
  PageCount reserve() const override;
  bool can_manage() override;
  Errno manage(BlockId first, BlockCount count) override;
  Store& store() override { return service_->store; }

 private:
  enum Phase : std::uint32_t { kIdle, kArming, kArmed, kImpossible };

  bool arm();
  bool start_service_threads();
  void publish_start(bool started);
  void publish_backend();
  static void fault_thread(void* self);
  static void guard_thread(void* self);
  static void reclaim_thread(void* self);
  Errno set_up_service();
  Errno adopt_parents_pages();
  Errno prepare_staging();
  void announce(Errno error);
  void copy_inheritance(const ForkGate::Inheritance& inheritance);

  const PagerOptions options_;
  Budget& budget_;

  PageTable table_;
  Pageblocks blocks_;
  MetadataArray<std::atomic<std::uint8_t>> gate_flags_;
  MetadataArray<AgeingNode> ageing_nodes_;
  StatisticsSegment* statistics_;
  VmParts vm_;
  HeapParts heap_;  // immutable once paging is armed
  const os::CpuSet cpus_ = os::CpuSet::of_process();
  Wakeups wakeups_;
  ThreadCpus thread_cpus_;
  Provider provider_;
  MetadataPool& pool_;
  PagingService* service_ = nullptr;  // from pool_; written while arming
  std::atomic<bool> threads_allowed_{false};
  std::atomic<bool> was_needed_{false};          // atomic: any thread; before anything is evicted
  std::atomic<std::uint32_t> phase_{kIdle};      // release on armed pairs with acquire of whoever acts on it
  std::atomic<std::uint32_t> service_error_{0};  // the service thread's answer: 0 none yet, 1 running, errno + 2
  std::atomic<std::uint32_t> running_{0};        // service threads that run; tests wait for zero
  std::uint32_t owner_process_;                  // a child of vfork shares our memory, and must start nothing
  std::uint32_t fault_thread_id_ = 0;

  // The fork under way; guarded by the fork gate's claim.
  bool fork_served_ = false;
  bool holds_arming_ = false;  // the forking thread keeps everybody from arming
  bool starting_in_child_ = false;
  Errno inheritance_error_;
  const char* inheritance_step_ = "";
  int inherited_[Store::kMaxInherited] = {};
  unsigned inherited_count_ = 0;
};

}  // namespace polder
