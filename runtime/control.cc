#include "runtime/control.h"

#include <cerrno>

#include "os/thread.h"
#include "runtime/instance.h"
#include "runtime/variant.h"

namespace polder::runtime {

constinit ControlBlock control{};

namespace {

// The process of the one thread that attends, or 0; nobody waits for it. A child that was forked, or used vfork, meanwhile
// has another id. Atomic: any thread.
constinit std::atomic<std::uint32_t> attending{0};

bool begin_attending() {
  const std::uint32_t process = os::process_id();
  std::uint32_t present = attending.load(std::memory_order_relaxed);
  return present != process && attending.compare_exchange_strong(present, process, std::memory_order_acquire);
}

}  // namespace

void open_control() {
  control.version.store(ControlBlock::kVersion, std::memory_order_relaxed);
  control.replaces.store(kReplacesMalloc ? 1 : 0, std::memory_order_relaxed);
  control.magic.store(ControlBlock::kMagic, std::memory_order_release);
}

void attend_to_request() {
  if (!manager_runs() || !begin_attending()) return;
  const std::uint64_t asked = control.asked.load(std::memory_order_acquire);
  if (asked != control.settled.load(std::memory_order_relaxed)) {
    Manager& manager = running_manager();
    Errno outlook;
    if (asked != control.taken_up.load(std::memory_order_relaxed)) {
      outlook = manager.change_memory_limit(control.limit.load(std::memory_order_relaxed));
      control.taken_up.store(asked, std::memory_order_release);
    }
    if (outlook.ok()) outlook = manager.begin_to_fit();
    if (outlook.code() != EAGAIN) {
      control.error.store(static_cast<std::uint64_t>(outlook.code()), std::memory_order_relaxed);
      control.settled.store(asked, std::memory_order_release);
    }
  }
  attending.store(0, std::memory_order_release);
}

}  // namespace polder::runtime

// The name by which the block is found. The library itself uses the other, which nobody can interpose.
extern "C" {
extern polder::runtime::ControlBlock polder_control
    __attribute__((alias("_ZN6polder7runtime7controlE"), visibility("default")));
}
