// One thread of the stress program: owns its slots of objects, replaces, frees, resizes, reads and gives them away at
// random, and checks every byte of an object before it lets go of it. The first wrong byte ends the process with a
// description and status 1.
#pragma once

#include <cstdint>

#include "programs/pattern.h"
#include "stress/shared_state.h"

namespace polder::stress {

struct WorkerSettings {
  unsigned index = 0;
  unsigned threads = 0;
  std::uint64_t live_bytes = 0;  // this worker's share
  std::uint64_t seed = 0;
  bool fork_children = false;
};

class Worker {
 public:
  Worker(const WorkerSettings& settings, Shared* shared, Counters* counters, Mailbox* mailboxes);

  // The thread's body: fills its share, churns until the phase changes, checks everything it still owns.
  void run();

 private:
  // Most objects that a worker owns at a time.
  static constexpr std::size_t kSlots = std::size_t{1} << 22;

  std::size_t random_size();
  std::size_t random_slot() { return random_.below(live_); }

  void allocate();
  void adopt(const Object& object);
  Object release(std::size_t slot);
  void check(const Object& object, std::size_t from, std::size_t to, const char* doing);
  void check_all(const Object& object, const char* doing) { check(object, 0, object.size, doing); }
  void check_and_free(const Object& object, const char* doing);

  void step();
  void read_some();
  void replace();
  void resize();
  void give_away();
  void take_in();
  void fork_child();
  [[noreturn]] void child_body(unsigned generation);
  void verify_everything();

  [[noreturn]] void fail(const Object& object, std::size_t offset, const char* doing);
  [[noreturn]] void out_of_memory(std::size_t size, const char* doing);

  WorkerSettings settings_;
  Shared* shared_;
  Counters* counters_;
  Mailbox* mailboxes_;
  programs::Random random_;
  Object* slots_;  // [0, live_) are live, in no order
  std::size_t live_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t next_seed_;
  std::uint64_t next_fork_ = 0;
};

}  // namespace polder::stress
