// The fault loop: one service thread that reads faults, resolves them or starts their I/O, takes completions, and sleeps
// only when there is nothing at all to do. It waits for no lock and touches no managed memory; what cannot be resolved
// at once is parked and tried again when the wake-ups say that something changed.
//
// While faults are parked for want of room and nobody else reclaims, the loop reclaims directly, a cluster at a time.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

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

  FaultLoop(PagerParts& parts, Evictor& evictor, Filler& filler, Courtesy& courtesy, ThreadCpus& cpus)
      : parts_(parts), evictor_(evictor), filler_(filler), courtesy_(courtesy), cpus_(cpus) {}

  // On the service thread, before run(): its engine and descriptors. Errors as met.
  Errno prepare(os::IoBackend backend);
  // Runs until stop() (tests) or for ever.
  void run();
  // From the reclaimer, which shares the descriptor table.
  void stop();

  // Precondition: prepared. Service threads only.
  const char* backend_name() const { return engine_->name(); }

  // The reclaimer's kernel thread id: its own touches of missing pages are plugged in the arena, not resolved, and end the
  // program in staging.
  void set_reclaimer_thread(std::uint32_t thread) { reclaimer_thread_.store(thread, std::memory_order_relaxed); }
  // Where the loop runs, next to the thread that faults, or kAnyCpu. Any thread.
  static constexpr std::uint32_t kAnyCpu = ~std::uint32_t{0};
  std::uint32_t cpu() const { return own_cpu_.load(std::memory_order_relaxed); }

  // Nothing can be evicted any more (true), or something could again.
  void set_exhausted(bool exhausted) { exhausted_.store(exhausted, std::memory_order_relaxed); }

  void reset_in_child();

 private:
  static constexpr std::uint32_t kMaxParked = 1024;
  static constexpr unsigned kBatch = 64;
  // A fault that finds neither memory nor swap for this long gives its page up.
  static constexpr std::uint64_t kGiveUpNs = 5'000'000'000;

  static constexpr int kParkedWaitMs = 20;  // between two looks at parked faults when nothing announced itself

  // Of the engine's completions: reads have small tags, writes their highest bit set (Evictor::is_write).
  static constexpr std::uint64_t kFaultsTag = std::uint64_t{1} << 62;
  static constexpr std::uint64_t kEventTag = kFaultsTag + 1;

  // Between other threads' turns a fault is served at once, not after them.
  static constexpr std::uint64_t kSliceNs = 100'000;
  // Reads that take longer are not worth staying awake for.
  static constexpr std::uint64_t kFastReadNs = 150'000;
  // Faults in a row that make a thread the only one that faults.
  static constexpr std::uint32_t kLone = 16;
  static constexpr std::uint32_t kFaultsPerLook = 8;

  struct Parked {
    os::Fault fault;
    std::uint64_t since_ns;
    Resolution why;
  };

  bool serve_completions();
  void serve_new_faults(std::span<const os::Fault> faults);
  bool retry_parked();
  void serve(const Parked& fault);
  Resolution try_resolve(const os::Fault& fault);
  void follow();
  void note_faulter(std::uint32_t thread);
  bool reclaim_directly();
  void sleep();

  PagerParts& parts_;
  Evictor& evictor_;
  Filler& filler_;
  Courtesy& courtesy_;
  ThreadCpus& cpus_;
  os::IoEngineStorage engine_storage_;
  os::IoEngine* engine_ = nullptr;
  os::Pagemap pagemap_;
  alignas(8) unsigned char messages_[kBatch * os::Userfaultfd::kMessageSize];
  int event_ = -1;
  std::uint64_t event_count_ = 0;                   // what the event's reads return; of no interest
  std::atomic<std::uint32_t> reclaimer_thread_{0};  // atomic: set by the reclaimer when it starts
  std::atomic<bool> exhausted_{false};              // atomic: set by the reclaimer
  std::atomic<bool> stopping_{false};               // atomic: tests

  bool may_spin_ = false;  // nobody pays for idle CPU time

  Parked parked_[kMaxParked];
  std::uint32_t parked_count_ = 0;

  // Following: two faults in a row from another CPU move us.
  std::uint32_t faults_since_look_ = 0;
  std::atomic<std::uint32_t> own_cpu_{kAnyCpu};  // atomic: read by the reclaimer
  std::uint32_t elsewhere_ = 0;
  std::uint32_t faulter_ = 0;  // whose faults came last
  std::uint32_t in_a_row_ = 0;
};

}  // namespace polder
