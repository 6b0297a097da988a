// The fault loop: one service thread that reads faults, resolves them or starts their I/O, takes completions, and sleeps
// only when there is nothing at all to do. It waits for no lock and touches no managed memory; what cannot be resolved
// at once is parked and tried again when the wake-ups say that something changed.
//
// While faults are parked for want of room and nobody else reclaims, the loop reclaims directly, a cluster at a time.
#pragma once

#include <atomic>
#include <cstdint>

#include "os/file.h"
#include "os/io_engine.h"
#include "os/pagemap.h"
#include "pager/evictor.h"
#include "pager/filler.h"
#include "pager/parts.h"
#include "pager/thread_cpus.h"

namespace polder {

class FaultLoop {
 public:
  // Outstanding transfers: the filler's reads and direct reclaim's writes.
  static constexpr unsigned kEngineDepth = 128;

  FaultLoop(PagerParts& parts, Evictor& evictor, Filler& filler, ThreadCpus& cpus)
      : parts_(parts), evictor_(evictor), filler_(filler), cpus_(cpus) {}

  // On the service thread, before run(): its engine and descriptors. Errors as met.
  Errno prepare(os::IoBackend backend);
  // Runs until stop() (tests) or for ever.
  void run();
  // From the reclaimer, which shares the descriptor table.
  void stop();

  // Precondition: prepared. Service threads only.
  const char* backend_name() const { return engine_->name(); }

  // The reclaimer's kernel thread id: its own touches of missing pages are plugged, not resolved.
  void set_reclaimer_thread(std::uint32_t thread) { reclaimer_thread_.store(thread, std::memory_order_relaxed); }
  // Nothing can be evicted any more (true), or something could again.
  void set_exhausted(bool exhausted) { exhausted_.store(exhausted, std::memory_order_relaxed); }

  void reset_in_child();

 private:
  static constexpr std::uint32_t kMaxParked = 1024;
  static constexpr unsigned kBatch = 64;
  // A fault that finds neither memory nor swap for this long gives its page up.
  static constexpr std::uint64_t kGiveUpNs = 5'000'000'000;

  // Bits of os::poll_readable, in the order of sleep()'s descriptors.
  enum : unsigned { kFaultsReady = 1, kCompletionsReady = 2, kEventReady = 4 };

  struct Parked {
    os::Fault fault;
    std::uint64_t since_ns;
    Resolution why;
  };

  bool serve_new_faults();
  bool serve_completions();
  bool retry_parked();
  void serve(const Parked& fault);
  Resolution try_resolve(const os::Fault& fault);
  void follow(std::uint32_t thread);
  bool reclaim_directly();
  unsigned sleep();

  PagerParts& parts_;
  Evictor& evictor_;
  Filler& filler_;
  ThreadCpus& cpus_;
  os::IoEngineStorage engine_storage_;
  os::IoEngine* engine_ = nullptr;
  os::Pagemap pagemap_;
  int event_ = -1;
  std::atomic<std::uint32_t> reclaimer_thread_{0};  // atomic: set by the reclaimer when it starts
  std::atomic<bool> exhausted_{false};              // atomic: set by the reclaimer
  std::atomic<bool> stopping_{false};               // atomic: tests

  Parked parked_[kMaxParked];
  std::uint32_t parked_count_ = 0;

  // Following: two faults in a row from another CPU move us.
  std::uint32_t faults_since_look_ = 0;
  std::uint32_t own_cpu_ = ~std::uint32_t{0};
  std::uint32_t elsewhere_ = 0;
};

}  // namespace polder
