// The reclaimer: the service thread that keeps pages free. Woken below the low watermark (or because somebody waits for
// more), it works until the high one:
//
//   1. free runs whose pages are still resident are purged: nobody misses them
//   2. while less than half of what is charged can be evicted, the oldest native pageblocks become managed
//   3. victims are staged; beyond the depth of the second chance, or when room is short, the oldest cluster is stored
//
// It also answers requests for managed blocks, stands still for forks, does the store's housekeeping, and
// calls whoever has to attend to something of his own. When none of its means frees anything it says so (exhausted), so
// that allocations fail instead of waiting for ever.
#pragma once

#include <atomic>
#include <cstdint>

#include "os/io_engine.h"
#include "os/thread.h"
#include "pager/block_requests.h"
#include "pager/converter.h"
#include "pager/evictor.h"
#include "pager/fault_loop.h"
#include "pager/fork_gate.h"
#include "pager/parts.h"
#include "pager/patience.h"
#include "vm/free_pages.h"

namespace polder {

class Reclaimer {
 public:
  static constexpr unsigned kEngineDepth = 32;

  Reclaimer(PagerParts& parts, Evictor& evictor, Converter& converter, FaultLoop& fault_loop, BlockRequests& requests,
            ForkGate& forks, FreePages* free_pages, const os::CpuSet& cpus, void (*attend)())
      : parts_(parts),
        evictor_(evictor),
        converter_(converter),
        fault_loop_(fault_loop),
        free_pages_(free_pages),
        requests_(requests),
        forks_(forks),
        cpus_(cpus),
        attend_(attend) {}

  // On the service thread, before run().
  Errno prepare(os::IoBackend backend);
  void run();
  // Tests: ends this thread and the fault loop.
  void stop() { stopping_.store(true); }

  // Allocating threads: at least `pages` should become free beyond the min watermark.
  void want(PageCount pages);

  bool exhausted() const { return exhausted_.load(std::memory_order_relaxed); }

  void reset_in_child();

 private:
  void keep_off_fault_loop();
  bool pressed() const;
  PageCount target() const;
  bool reclaim_batch();
  bool purge_free_pages();
  bool convert_if_few_evictable();
  bool evict_batch();
  bool reap();
  void serve_fork();
  void note_progress(bool progress);
  void house_keeping();
  void rest();

  PagerParts& parts_;
  Evictor& evictor_;
  Converter& converter_;
  FaultLoop& fault_loop_;
  FreePages* const free_pages_;
  BlockRequests& requests_;
  ForkGate& forks_;

  os::IoEngineStorage engine_storage_;
  os::IoEngine* engine_ = nullptr;
  bool reclaiming_ = false;  // between low and high watermark
  const os::CpuSet& cpus_;   // as the process was started with
  void (*const attend_)();   // PagerOptions::attend
  std::uint32_t avoided_cpu_ = FaultLoop::kAnyCpu;
  std::uint32_t batches_since_conversion_ = 0;
  std::uint64_t stuck_ = 0;  // clusters in a row of which nothing could be stored
  Patience patience_;
  std::uint64_t last_retry_ns_ = 0;
  std::uint64_t last_house_keeping_ns_ = 0;
  std::atomic<std::uint64_t> wanted_{0};  // atomic: pages that allocating threads wait for
  std::atomic<bool> exhausted_{false};
  std::atomic<bool> stopping_{false};
};

}  // namespace polder
