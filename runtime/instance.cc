#include "runtime/instance.h"

#include <atomic>

#include "base/check.h"
#include "base/fatal.h"
#include "base/message.h"
#include "base/statistics_segment.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/mutex.h"
#include "os/thread.h"
#include "runtime/control.h"
#include "runtime/environment.h"
#include "runtime/foreign.h"
#include "runtime/fork.h"
#include "runtime/options.h"
#include "runtime/thread_state.h"
#include "runtime/variant.h"

namespace polder::runtime {

constinit internal::ManagerStorage internal::manager_storage{};
constinit PointerKinds arena_pointers;

namespace {

enum Phase : std::uint32_t { kUnborn, kStarting, kRunning };

// Atomic: the release by which it becomes kRunning pairs with the acquire in manager_runs().
constinit std::atomic<std::uint32_t> phase{kUnborn};
// The thread that starts the manager: an allocation of its own meanwhile would wait for itself.
constinit std::atomic<std::uint32_t> starter{0};

// Made where options are given; the paths in them stay.
[[gnu::section(".bss.seldom")]] alignas(Options) constinit unsigned char options_storage[sizeof(Options)] = {};

// The supervisor's segment where it was made for this very process; null where there is none. It is for the heap that
// malloc takes from.
StatisticsSegment* map_statistics(const Options& options) {
  if (!kReplacesMalloc) return nullptr;
  if (options.stats_segment.empty() || options.stats_owner != os::process_id()) return nullptr;
  const Result<int> file = os::open_existing(options.stats_segment.text);
  Errno error = file.error;
  if (file.ok()) {
    const Result<char*> mapping = os::map_shared_file(file.value, bytes(pages_up(sizeof(StatisticsSegment))));
    os::close(file.value);
    if (mapping.ok()) {
      auto* const segment = reinterpret_cast<StatisticsSegment*>(mapping.value);
      if (segment->valid_for(options.stats_owner, sizeof(StatisticsSegment))) {
        reset(*segment);
        return segment;
      }
      os::release(mapping.value, bytes(pages_up(sizeof(StatisticsSegment))));
    }
    error = mapping.error;
  }
  Message message;
  message.text("no statistics: ").text(options.stats_segment.text);
  if (error.ok()) {
    say(message.text(" was made by another version"));
  } else {
    say(message.text(": ").error(error.code()));
  }
  return nullptr;
}

void take_options(const char* text, ManagerOptions& chosen) {
  Options& options = *new (options_storage) Options;
  OptionProblem problem;
  if (parse_options(text, options, problem) == OptionsOutcome::invalid) {
    report_bad_option(problem.option, problem.problem);
  }
  chosen.memory_limit_bytes = options.memory;
  chosen.swap_directory = options.swap_dir.text;
  chosen.swap_bytes = options.swap_size;
  chosen.io = options.io;
  chosen.policy = options.policy;
  chosen.watermark_scale = static_cast<std::uint32_t>(options.watermark_scale);
  chosen.statistics = map_statistics(options);
  chosen.hardening = options.hardened ? Hardening::on : Hardening::off;
}

void build() {
  os::install_message_sink();
  note_program_break();
  ManagerOptions manager_options{
      .enter_unevictable = UnevictableScope::enter,
      .leave_unevictable = UnevictableScope::leave,
      .attend = attend_on_reclaimer,
  };
  if (const char* const text = find_configuration(); text != nullptr) take_options(text, manager_options);
  Manager& manager = *new (internal::manager_storage.bytes) Manager(manager_options);
  arena_pointers = manager.heap().pointers();
  install_fork_handlers();
  open_control();
}

}  // namespace

bool manager_runs() { return phase.load(std::memory_order_acquire) == kRunning; }

Manager& start_manager() {
  std::uint32_t seen = phase.load(std::memory_order_acquire);
  if (seen == kRunning) return running_manager();
  if (seen == kUnborn && phase.compare_exchange_strong(seen, kStarting, std::memory_order_acquire)) {
    starter.store(os::thread_id(), std::memory_order_relaxed);
    build();
    phase.store(kRunning, std::memory_order_release);
    os::futex_wake_all(phase);
    return running_manager();
  }
  while (phase.load(std::memory_order_acquire) != kRunning) {
    POLDER_CHECK(starter.load(std::memory_order_relaxed) != os::thread_id(), "start-up must not allocate");
    os::futex_wait(phase, kStarting, -1);
  }
  return running_manager();
}

}  // namespace polder::runtime
