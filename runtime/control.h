// How `polder limit PID SIZE` reaches a process: a block of memory that the command finds by its symbol, polder_control,
// and writes a request to. Both sides include this file.
//
//   command   limit, then asked = asked + 1; waits until settled is that number
//   process   at the next slow path of malloc, or its reclaimer within a second: the limit is changed, taken_up = asked;
//             when what is resident fits, or will not come to fit, error, then settled = asked
//
// free is no place for that: to lower a limit may start threads, and the C library frees with locks held that this takes.
// A process that neither allocates nor has a reclaimer yet answers when it does.
#pragma once

#include <atomic>
#include <cstdint>

namespace polder::runtime {

inline constexpr const char* kControlSymbol = "polder_control";

// Word: atomic in the process, as another one writes it too; plain in a copy.
template <typename Word>
struct ControlFields {
  static constexpr std::uint64_t kMagic = 0x4c54'4352'444c'4f50;  // "POLDRCTL"
  static constexpr std::uint64_t kVersion = 1;

  Word magic;     // 0 until the heap runs
  Word version;   //
  Word replaces;  // 1: the heap that malloc takes from; 0: one beside it
  Word limit;     // bytes; 0: none
  Word asked;     // number of the last request
  Word taken_up;  // of the last whose limit was set, or refused
  Word settled;   // of the last that nothing is left to be done for
  // Why the last one was refused (EINVAL: less than the heap needs for its own state), or is in force and not kept
  // (EOPNOTSUPP: this machine does not allow paging; ETIMEDOUT: nothing more can be evicted). 0: none of these.
  Word error;
};
using ControlBlock = ControlFields<std::atomic<std::uint64_t>>;

// Of the heap in this library.
extern constinit ControlBlock control;

// The heap runs: requests can be taken up.
void open_control();

void attend_to_request();

// A thread that allocates, in none of the library's own scopes.
inline void attend() {
  if (control.asked.load(std::memory_order_relaxed) != control.taken_up.load(std::memory_order_relaxed)) [[unlikely]]
    attend_to_request();
}

// The reclaimer, which also sees to what comes after.
inline void attend_on_reclaimer() {
  if (control.asked.load(std::memory_order_relaxed) != control.settled.load(std::memory_order_relaxed)) [[unlikely]]
    attend_to_request();
}

}  // namespace polder::runtime
