#include "os/thread.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

#include "base/check.h"
#include "base/message.h"
#include "base/units.h"
#include "os/file.h"
#include "os/mapping.h"
#include "unit/os/child.h"

namespace polder::os {
namespace {

// More thread-local data than the smallest stack holds: the C library takes it from there.
thread_local char much_thread_local_data[256 << 10];

std::string line_of(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind(key, 0) == 0) return line.substr(key.size());
  }
  return "";
}

struct Worker {
  Errno start(const char* name, std::size_t stack_size = 64 << 10) {
    const Errno error =
        start_service_thread([](void* self) { static_cast<Worker*>(self)->run(); }, this, name, stack_size);
    if (error.ok()) {
      while (step.load() < 1) sleep_ms(1);
    }
    return error;
  }
  void end() {
    step = 2;
    while (step.load() < 3) sleep_ms(1);
  }
  void run() {
    much_thread_local_data[0] = 1;
    char local = 0;
    stack = &local;
    thread = thread_id();
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    step = 1;
    while (step.load() < 2) sleep_ms(1);
    step = 3;
  }
  std::string proc(const char* file) const { return "/proc/self/task/" + std::to_string(thread) + "/" + file; }

  std::atomic<int> step{0};
  std::uint32_t thread = 0;
  char* stack = nullptr;
  sigset_t mask{};
};

TEST(ServiceThread, CarriesItsNameAndBlocksSignals) {
  Worker worker;
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, nullptr, &before);
  const test::ErrnoWitness witness;
  ASSERT_EQ(worker.start("a-very-long-thread-name"), kOk);
  EXPECT_TRUE(witness.untouched());
  std::string name;
  std::getline(std::ifstream(worker.proc("comm")), name);
  EXPECT_EQ(name, "a-very-long-thr");
  for (int signal = 1; signal < 32; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    EXPECT_EQ(sigismember(&worker.mask, signal), 1) << signal;
  }
  const auto blocked = std::stoull(line_of(worker.proc("status"), "SigBlk:\t"), nullptr, 16);
  EXPECT_EQ(blocked >> 31 & 3, 0u) << "signals 32 and 33 are the C library's";
  sigset_t after;
  pthread_sigmask(SIG_SETMASK, nullptr, &after);
  for (int signal = 1; signal < 32; ++signal) EXPECT_EQ(sigismember(&after, signal), sigismember(&before, signal));
  worker.end();
}

TEST(ServiceThread, RunsOnItsOwnGuardedStack) {
  Worker worker;
  ASSERT_EQ(worker.start("stack", std::size_t{1} << 20), kOk);
  // Walk down from the stack's top frame to the guard.
  std::uintptr_t address = reinterpret_cast<std::uintptr_t>(worker.stack) & ~(kPageSize - 1);
  const std::uintptr_t top = address;
  std::uint32_t word;
  while (read_word_safely(reinterpret_cast<void*>(address), &word)) {
    address -= kPageSize;
    ASSERT_LT(top - address, std::size_t{64} << 20);
  }
  std::ifstream maps("/proc/self/maps");
  std::string permissions;
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t start;
    std::uintptr_t end;
    char flags[8];
    if (std::sscanf(line.c_str(), "%lx-%lx %7s", &start, &end, flags) == 3 && start <= address && address < end) {
      permissions = flags;
    }
  }
  EXPECT_EQ(permissions, "---p");
  EXPECT_GE(top - address, (std::size_t{1} << 20) - (256 << 10) - (64 << 10));
  worker.end();
}

TEST(ServiceThread, RunsWhereTheProcessMay) {
  const unsigned all = cpu_count();
  unsigned its = 0;
  std::thread([&its] {
    ASSERT_TRUE(run_on_cpu(current_cpu()));
    Worker worker;
    ASSERT_EQ(worker.start("anywhere"), kOk);
    cpu_set_t cpus;
    ASSERT_EQ(sched_getaffinity(static_cast<pid_t>(worker.thread), sizeof cpus, &cpus), 0);
    its = static_cast<unsigned>(CPU_COUNT(&cpus));
    worker.end();
  }).join();
  EXPECT_EQ(its, all);
}

TEST(ServiceThread, FollowsAChangeOfUser) {
  // setuid stops every thread with a signal of the C library's: blocking that one would hang it.
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to give it up";
  EXPECT_CHILD_OK(test::in_child([] {
    Worker worker;
    CHILD_EXPECT(worker.start("setuid").ok());
    CHILD_EXPECT(test::drop_privileges());
    CHILD_EXPECT(line_of(worker.proc("status"), "Uid:\t").rfind("65534\t65534", 0) == 0);
    return 0;
  }));
}

TEST(ServiceThread, ReportsTheProcessLimit) {
  EXPECT_CHILD_OK(test::in_child([] {
    const rlimit limit{0, 0};
    if (geteuid() != 0 || setrlimit(RLIMIT_NPROC, &limit) != 0 || !test::drop_privileges()) {
      return test::kNotPossibleHere;
    }
    Worker worker;
    const test::ErrnoWitness witness;
    CHILD_EXPECT(worker.start("refused") == Errno(EAGAIN));
    CHILD_EXPECT(witness.untouched());
    return 0;
  }));
}

// The C library ends the process with status 0 when its count of threads says that the last one has gone: a service
// thread takes itself out of the count, and must not be counted down a second time when it ends.
TEST(ServiceThread, LeavesTheCLibrarysCountAsItWas) {
  auto* const count = static_cast<std::atomic<std::uint32_t>*>(dlsym(RTLD_DEFAULT, "__nptl_nthreads"));
  if (count == nullptr) GTEST_SKIP() << "this C library does not show its count of threads";
  EXPECT_CHILD_OK(test::in_child([count] {
    const std::uint32_t before = count->load();
    set_thread_count(count);
    for (int i = 0; i < 20; ++i) {
      static std::atomic<int> ended;
      ended = 0;
      CHILD_EXPECT(start_service_thread([](void*) { ++ended; }, nullptr, "short", 0).ok());
      while (ended == 0) sleep_ms(1);
    }
    for (int tries = 0; tries < 1000 && count->load() != before; ++tries) sleep_ms(1);
    CHILD_EXPECT(count->load() == before);
    std::thread([] {}).join();  // ends as the last thread would, were the count wrong
    return 0;
  }));
}

// The program's handler may touch memory that only the dying thread could bring back.
TEST(ServiceThreadDeathTest, DiesWithoutTheProgramsHandler) {
  const auto die_on_a_thread = [](bool service) {
    std::signal(SIGABRT, [](int) { _exit(7); });
    if (service) {
      const auto body = [](void*) { POLDER_CHECK(false, "the end of a service thread"); };
      static_cast<void>(start_service_thread(body, nullptr, "dying", 0));
      ::sleep(60);
    }
    POLDER_CHECK(false, "the end of a program's thread");
  };
  EXPECT_EXIT(die_on_a_thread(true), testing::KilledBySignal(SIGABRT), "");
  EXPECT_EXIT(die_on_a_thread(false), testing::ExitedWithCode(7), "");
}

TEST(ThreadIdentity, IsTheKernels) {
  EXPECT_EQ(process_id(), static_cast<std::uint32_t>(getpid()));
  EXPECT_EQ(thread_id(), process_id());
  std::thread([] { EXPECT_EQ(thread_id(), static_cast<std::uint32_t>(gettid())); }).join();
  EXPECT_EQ(test::in_child([] { return process_id() == static_cast<std::uint32_t>(getpid()) ? 0 : 1; }), 0);
}

TEST(Cpu, PinningIsVisibleEverywhere) {
  std::thread([] {
    cpu_set_t allowed;
    ASSERT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
    EXPECT_EQ(cpu_count(), static_cast<unsigned>(CPU_COUNT(&allowed)));
    const unsigned count = cpu_count();
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      const test::ErrnoWitness witness;
      const bool possible = CPU_ISSET(cpu, &allowed);
      if (!possible && cpu > 8 && cpu < CPU_SETSIZE - 1) continue;
      EXPECT_EQ(run_on_cpu(cpu), possible) << cpu;
      EXPECT_TRUE(witness.untouched());
      if (!possible) continue;
      EXPECT_EQ(current_cpu(), cpu);
      if (const volatile std::uint32_t* const word = current_cpu_word(); word != nullptr) {
        EXPECT_EQ(*word, cpu);
      }
    }
    EXPECT_EQ(cpu_count(), count) << "pinning the caller changes nothing";
    EXPECT_FALSE(run_on_cpu(8191));
    EXPECT_FALSE(run_on_cpu(1000000));
  }).join();
}

TEST(Cpu, SetsAreWhatTheyHold) {
  std::thread([] {
    const CpuSet all = CpuSet::of_process();
    EXPECT_EQ(all.count(), cpu_count());
    CpuSet left = all;
    for (unsigned cpu = 0; cpu < CpuSet::kCpus; ++cpu) {
      const unsigned before = left.count();
      left.remove(cpu);
      EXPECT_EQ(left.count(), all.contains(cpu) && before > 1 ? before - 1 : before);
    }
    EXPECT_EQ(left.count(), 1u) << "the last one stays";
    EXPECT_TRUE(run_on(left));
    EXPECT_TRUE(left.contains(current_cpu()));
    EXPECT_TRUE(run_on(all));
    EXPECT_FALSE(run_on(CpuSet{}));
    EXPECT_FALSE(all.contains(CpuSet::kCpus));
  }).join();
}

TEST(Cpu, TheLimitIsBehindTheHighest) {
  CpuSet set;
  EXPECT_EQ(set.limit(), 0u);
  set.add(0);
  EXPECT_EQ(set.limit(), 1u);
  set.add(77);
  EXPECT_EQ(set.limit(), 78u);
  set.add(CpuSet::kCpus - 1);
  EXPECT_EQ(set.limit(), CpuSet::kCpus);
  EXPECT_GT(cpu_limit(), current_cpu());
  EXPECT_GE(cpu_limit(), cpu_count());
}

TEST(ThreadState, TellsRunningFromSleeping) {
  std::atomic<std::uint32_t> id{0};
  std::atomic<bool> sleep{false};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    id = thread_id();
    while (!sleep) relax_cpu();
    while (!stop) sleep_ms(1000);
  });
  while (id == 0) sleep_ms(1);
  EXPECT_TRUE(thread_is_runnable(id));
  sleep = true;
  while (thread_is_runnable(id)) sleep_ms(1);
  EXPECT_FALSE(thread_is_runnable(0x7fffffff));
  stop = true;
  other.join();
}

TEST(SchedulingClass, ChangesAndIsReported) {
  std::thread([] {
    ASSERT_TRUE(in_normal_class(0));
    const test::ErrnoWitness witness;
    ASSERT_TRUE(set_idle_class(0));
    EXPECT_TRUE(in_idle_class(thread_id()));
    EXPECT_FALSE(in_normal_class(0));
    const bool back = set_normal_class(0);
    EXPECT_TRUE(witness.untouched());
    if (!back) GTEST_SKIP() << "no permission to leave the idle class";
    EXPECT_TRUE(in_normal_class(thread_id()));
    EXPECT_FALSE(set_idle_class(0x7fffffff));
  }).join();
}

TEST(Cpu, WordBelongsToTheThread) {
  const volatile std::uint32_t* const mine = current_cpu_word();
  if (mine == nullptr) GTEST_SKIP() << "the C library registers no rseq area";
  std::atomic<const volatile std::uint32_t*> theirs{nullptr};
  std::atomic<bool> stop{false};
  std::thread other([&] {
    run_on_cpu(0);
    theirs = current_cpu_word();
    while (!stop) sleep_ms(1);
  });
  while (theirs.load() == nullptr) sleep_ms(1);
  EXPECT_NE(theirs.load(), mine);
  std::uint32_t cpu = 77;
  EXPECT_TRUE(read_word_safely(theirs.load(), &cpu));
  EXPECT_EQ(cpu, 0u);
  stop = true;
  other.join();
}

TEST(ReadWordSafely, NeverFaults) {
  const Result<char*> memory = map_private(2 * kPageSize);
  ASSERT_TRUE(memory.ok());
  std::memcpy(memory.value + kPageSize - 4, "wxyz", 4);
  std::uint32_t word = 0;
  const test::ErrnoWitness witness;
  EXPECT_TRUE(read_word_safely(memory.value + kPageSize - 4, &word));
  EXPECT_EQ(std::memcmp(&word, "wxyz", 4), 0);
  release(memory.value + kPageSize, kPageSize);
  word = 5;
  EXPECT_TRUE(read_word_safely(memory.value + kPageSize - 4, &word));
  EXPECT_FALSE(read_word_safely(memory.value + kPageSize - 2, &word));
  EXPECT_FALSE(read_word_safely(memory.value + kPageSize, &word));
  EXPECT_FALSE(read_word_safely(nullptr, &word));
  EXPECT_FALSE(read_word_safely(reinterpret_cast<void*>(~std::uintptr_t{0} - 7), &word));
  EXPECT_EQ(std::memcmp(&word, "wxyz", 4), 0) << "a failed read leaves the value alone";
  mprotect(memory.value, kPageSize, PROT_NONE);
  EXPECT_FALSE(read_word_safely(memory.value, &word));
  EXPECT_TRUE(witness.untouched());
  release(memory.value, kPageSize);
}

TEST(Time, PassesWhileAsleep) {
  const test::ErrnoWitness witness;
  const std::uint64_t before = monotonic_ns();
  sleep_ms(20);
  const std::uint64_t passed = monotonic_ns() - before;
  EXPECT_GE(passed, 20000000u);
  EXPECT_LT(passed, 2000000000u);
  sleep_ms(0);
  EXPECT_TRUE(witness.untouched());
}

bool random_bytes_vary() {
  unsigned char first[37] = {};
  unsigned char second[37] = {};
  random_bytes(first, sizeof first);
  random_bytes(second, sizeof second);
  unsigned different = 0;
  unsigned distinct = 0;
  bool seen[256] = {};
  for (std::size_t i = 0; i < sizeof first; ++i) {
    different += first[i] != second[i];
    distinct += !seen[first[i]];
    seen[first[i]] = true;
  }
  return different > 25 && distinct > 20;
}

TEST(RandomBytes, DifferEachTime) {
  const test::ErrnoWitness witness;
  EXPECT_TRUE(random_bytes_vary());
  EXPECT_TRUE(witness.untouched());
  random_bytes(nullptr, 0);
}

TEST(RandomBytes, DifferWithoutTheKernelsHelp) {
  EXPECT_CHILD_OK(test::in_child([] {
    if (!test::refuse(SYS_getrandom, ENOSYS)) return test::kNotPossibleHere;
    CHILD_EXPECT(random_bytes_vary());
    return 0;
  }));
}

TEST(MessageSink, WritesOneLineToStandardError) {
  EXPECT_CHILD_OK(test::in_child([] {
    const Result<Pipe> pipe = make_pipe();
    CHILD_EXPECT(pipe.ok());
    const int before = dup(2);
    dup2(pipe.value.write_end, 2);
    install_message_sink();
    const test::ErrnoWitness witness;
    say(Message().text("water at ").number(42));
    const bool untouched = witness.untouched();
    dup2(before, 2);
    CHILD_EXPECT(untouched);
    char text[64] = {};
    CHILD_EXPECT(::read(pipe.value.read_end, text, sizeof text - 1) > 0);
    CHILD_EXPECT(std::strcmp(text, "polder: water at 42\n") == 0);
    ::close(2);
    errno = 99;
    say(Message().text("nobody listens"));
    return errno == 99 ? 0 : 1;
  }));
}

// Whoever would read it may wait for the thread.
TEST(MessageSink, AServiceThreadDropsWhatThereIsNoRoomFor) {
  EXPECT_CHILD_OK(test::in_child([] {
    alarm(60);
    const Result<Pipe> pipe = make_pipe();
    CHILD_EXPECT(pipe.ok());
    CHILD_EXPECT(fcntl(pipe.value.write_end, F_SETFL, O_NONBLOCK) == 0);
    const char page[4096] = {};
    while (::write(pipe.value.write_end, page, sizeof page) > 0) {
    }
    CHILD_EXPECT(fcntl(pipe.value.write_end, F_SETFL, 0) == 0);
    dup2(pipe.value.write_end, 2);
    install_message_sink();
    std::atomic<bool> said{false};
    const auto speak = [](void* done) {
      say(Message().text("the pipe is full"));
      static_cast<std::atomic<bool>*>(done)->store(true);
    };
    CHILD_EXPECT(start_service_thread(speak, &said, "speaker", 64 << 10).ok());
    while (!said) sleep_ms(1);
    return 0;
  }));
}

}  // namespace
}  // namespace polder::os
