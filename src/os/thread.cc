#include "os/thread.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>

#include "base/check.h"
#include "base/fatal.h"
#include "base/message.h"
#include "base/thread_local.h"
#include "base/units.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/sanitizer.h"
#include "os/syscall.h"

// Where glibc keeps the calling thread's registered rseq area: exported since 2.35, absent before and elsewhere.
// NOLINTBEGIN(readability-identifier-naming)
extern "C" {
[[gnu::weak]] extern const std::ptrdiff_t __rseq_offset;
[[gnu::weak]] extern const unsigned int __rseq_size;
}
// NOLINTEND(readability-identifier-naming)

namespace polder::os {
namespace {

// The C library takes static TLS and the thread descriptor from the stack; programs with much TLS need more than asked.
constexpr std::size_t kSmallestStack = std::size_t{kThreadSanitizer ? 2048 : 64} << 10;
constexpr std::size_t kLargestStack = std::size_t{64} << 20;

// Atomic: set by the constructor, read by whoever starts a service thread later. Relaxed: what it points to is static.
constinit std::atomic<std::atomic<std::uint32_t>*> thread_count{nullptr};

// Set where code of the program must not run.
POLDER_THREAD_LOCAL constinit thread_local bool bars_program = false;

void reset_abort_handler() {
  if (!bars_program) return;
  struct {  // the kernel's sigaction
    void (*handler)(int);
    unsigned long flags;
    void (*restorer)();
    std::uint64_t mask;
  } const action = {};
  static_cast<void>(system_call(SYS_rt_sigaction, SIGABRT, &action, nullptr, sizeof action.mask));
}

// Lies above the new thread's stack until the thread has copied it.
struct alignas(64) ThreadStart {
  void (*body)(void*);
  void* argument;
  char name[16];
};

void* run_service_thread(void* start) {
  const ThreadStart copy = *static_cast<const ThreadStart*>(start);
  bar_program();
  static_cast<void>(system_call(SYS_prctl, PR_SET_NAME, copy.name, 0, 0, 0));
  // Not only where the thread may that happened to start it.
  static_cast<void>(run_on(CpuSet::of_process()));
  copy.body(copy.argument);
  // Back into the count that its end is about to be taken from.
  if (auto* const count = thread_count.load(std::memory_order_relaxed); count != nullptr) count->fetch_add(1);
  return nullptr;
}

Errno create_detached(void* stack, std::size_t stack_size, ThreadStart* start) {
  pthread_attr_t attributes;
  if (const int code = pthread_attr_init(&attributes); code != 0) return Errno(code);
  int code = pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  if (code == 0) code = pthread_attr_setstack(&attributes, stack, stack_size);
  if (code == 0) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    code = pthread_create(&thread, &attributes, run_service_thread, start);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  pthread_attr_destroy(&attributes);
  return Errno(code);
}

constexpr std::size_t page_up(std::size_t size) { return (size + kPageSize - 1) & ~(kPageSize - 1); }

char* thread_pointer() {
#if defined(__x86_64__)
  char* pointer;
  asm("mov %%fs:0, %0" : "=r"(pointer));
  return pointer;
#else
  return static_cast<char*>(__builtin_thread_pointer());
#endif
}

std::uint64_t mix(std::uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
  value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
  return value ^ (value >> 31);
}

// A service thread drops what there is no room for: whoever reads the pipe may wait for this thread.
long write_all(int fd, const char* text, std::size_t length) {
  while (length != 0) {
    pollfd output{fd, POLLOUT, 0};
    constexpr timespec kNow{};
    if (bars_program && system_call(SYS_ppoll, &output, 1, &kNow, nullptr, 0) == 0) return 0;
    const long written = uninterrupted_call(SYS_write, fd, text, length);
    if (written <= 0) return written;
    text += written;
    length -= static_cast<std::size_t>(written);
  }
  return 0;
}

// A service thread has no standard error in its own descriptor table: it borrows the program's for the line.
void write_to_standard_error(const char* text, std::size_t length) {
  if (write_all(STDERR_FILENO, text, length) != -EBADF) return;
  const Result<int> borrowed = copy_descriptor_from_thread(process_id(), STDERR_FILENO);
  if (!borrowed.ok()) return;
  static_cast<void>(write_all(borrowed.value, text, length));
  close(borrowed.value);
}

}  // namespace

Errno start_service_thread(void (*body)(void*), void* argument, const char* name, std::size_t stack_size) {
  const ErrnoGuard guard;
  std::size_t size = page_up(stack_size < kSmallestStack ? kSmallestStack : stack_size);
  for (;;) {
    const Result<char*> memory = map_private(kPageSize + size);
    if (!memory.ok()) return Errno(EAGAIN);
    char* const stack = memory.value + kPageSize;
    advise_huge_pages(stack, size, HugePages::never);  // a stack that merged with its neighbours is not worth 2 MiB
    Errno error = as_errno(system_call(SYS_mprotect, memory.value, kPageSize, PROT_NONE));  // the guard page
    if (error.ok()) {
      auto* const start = reinterpret_cast<ThreadStart*>(stack + size - sizeof(ThreadStart));
      start->body = body;
      start->argument = argument;
      std::size_t length = 0;
      for (; length < sizeof start->name - 1 && name[length] != '\0'; ++length) start->name[length] = name[length];
      start->name[length] = '\0';
      error = create_detached(stack, size - sizeof(ThreadStart), start);
    }
    if (error.ok()) {
      if (auto* const count = thread_count.load(std::memory_order_relaxed); count != nullptr) count->fetch_sub(1);
      return kOk;
    }
    release(memory.value, kPageSize + size);
    if (error != Errno(EINVAL) || size >= kLargestStack) return error;
    size *= 2;
  }
}

void bar_program() {
  bars_program = true;
  set_abort_guard(reset_abort_handler);
}

void set_thread_count(std::atomic<std::uint32_t>* count) { thread_count.store(count, std::memory_order_relaxed); }

std::uint32_t thread_id() { return static_cast<std::uint32_t>(system_call(SYS_gettid)); }
std::uint32_t process_id() { return static_cast<std::uint32_t>(system_call(SYS_getpid)); }

CpuSet CpuSet::of_process() {
  CpuSet set;
  long length = system_call(SYS_sched_getaffinity, process_id(), sizeof set.words_, set.words_);
  if (length < 0) length = system_call(SYS_sched_getaffinity, 0, sizeof set.words_, set.words_);
  if (length <= 0) set.add(current_cpu());
  return set;
}

void CpuSet::remove(unsigned cpu) {
  if (contains(cpu) && count() > 1) words_[cpu / kBits] &= ~(1UL << (cpu % kBits));
}

unsigned CpuSet::count() const {
  unsigned count = 0;
  for (const unsigned long word : words_) count += static_cast<unsigned>(__builtin_popcountl(word));
  return count;
}

unsigned CpuSet::limit() const {
  for (unsigned word = kCpus / kBits; word > 0; --word) {
    if (words_[word - 1] != 0) return word * kBits - static_cast<unsigned>(__builtin_clzl(words_[word - 1]));
  }
  return 0;
}

bool run_on(const CpuSet& cpus) { return system_call(SYS_sched_setaffinity, 0, CpuSet::kCpus / 8, cpus.words()) == 0; }

bool run_on_cpu(unsigned cpu) {
  CpuSet set;
  if (cpu < CpuSet::kCpus) set.add(cpu);
  return run_on(set);
}

bool thread_is_runnable(std::uint32_t thread) {
  char content[256];
  Message path;
  path.text("/proc/self/task/").number(thread).text("/stat");
  const std::size_t length = read_start(path.c_str(), content, sizeof content);
  // "id (name) state ...": the name may hold anything, but nothing behind it holds a parenthesis.
  for (std::size_t i = length; i > 2; --i) {
    if (content[i - 3] == ')') return content[i - 1] == 'R';
  }
  return false;
}

void set_normal_io_priority() {
  constexpr int kThisThread = 1;            // IOPRIO_WHO_PROCESS
  constexpr int kBestEffort = 2 << 13 | 4;  // IOPRIO_CLASS_BE, the middle level
  static_cast<void>(system_call(SYS_ioprio_set, kThisThread, 0, kBestEffort));
}

bool set_time_slice(std::uint64_t ns) {
  struct {  // sched_attr, first version
    std::uint32_t size;
    std::uint32_t policy;
    std::uint64_t flags;
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t runtime;
    std::uint64_t deadline;
    std::uint64_t period;
  } attributes{};
  attributes.size = sizeof attributes;
  if (system_call(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return false;
  if (attributes.policy != SCHED_OTHER) return false;
  attributes.runtime = ns;
  return system_call(SYS_sched_setattr, 0, &attributes, 0) == 0;
}

bool in_normal_class(std::uint32_t thread) { return system_call(SYS_sched_getscheduler, thread) == SCHED_OTHER; }
bool in_idle_class(std::uint32_t thread) { return system_call(SYS_sched_getscheduler, thread) == SCHED_IDLE; }

bool set_idle_class(std::uint32_t thread) {
  const sched_param parameters{};
  return system_call(SYS_sched_setscheduler, thread, SCHED_IDLE, &parameters) == 0;
}

bool set_normal_class(std::uint32_t thread) {
  const sched_param parameters{};
  return system_call(SYS_sched_setscheduler, thread, SCHED_OTHER, &parameters) == 0;
}

unsigned current_cpu() {
  if (const volatile std::uint32_t* const word = current_cpu_word(); word != nullptr) return *word;
  unsigned cpu = 0;
  static_cast<void>(system_call(SYS_getcpu, &cpu, nullptr, nullptr));
  return cpu;
}

unsigned cpu_count() { return CpuSet::of_process().count(); }
unsigned cpu_limit() { return CpuSet::of_process().limit(); }

const volatile std::uint32_t* current_cpu_word() {
  constexpr std::ptrdiff_t kCpuIdOffset = 4;  // struct rseq: cpu_id_start, cpu_id
  if (&__rseq_size == nullptr || &__rseq_offset == nullptr || __rseq_size == 0) return nullptr;
  const auto* const word =
      reinterpret_cast<const volatile std::uint32_t*>(thread_pointer() + __rseq_offset + kCpuIdOffset);
  return static_cast<std::int32_t>(*word) < 0 ? nullptr : word;  // negative: not registered in this thread
}

bool read_word_safely(const volatile void* address, std::uint32_t* value) {
  std::uint32_t copy = 0;
  const iovec local{&copy, sizeof copy};
  const iovec remote{const_cast<void*>(address), sizeof copy};
  if (system_call(SYS_process_vm_readv, process_id(), &local, 1, &remote, 1, 0) != static_cast<long>(sizeof copy)) {
    return false;
  }
  *value = copy;
  return true;
}

namespace {

std::uint64_t nanoseconds_of(clockid_t clock) {
  const ErrnoGuard guard;
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000000 + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace

std::uint64_t monotonic_ns() { return nanoseconds_of(CLOCK_MONOTONIC); }  // the vDSO: no system call

std::uint64_t thread_cpu_ns() { return nanoseconds_of(CLOCK_THREAD_CPUTIME_ID); }

void sleep_ms(unsigned milliseconds) {
  timespec left{static_cast<time_t>(milliseconds / 1000), static_cast<long>(milliseconds % 1000) * 1000000};
  while (system_call(SYS_nanosleep, &left, &left) == -EINTR) {
  }
}

void yield_cpu() { static_cast<void>(system_call(SYS_sched_yield)); }

void random_bytes(void* destination, std::size_t size) {
  constexpr unsigned kDoNotBlock = 1;  // GRND_NONBLOCK: early at boot the kernel may not have any yet
  auto* bytes = static_cast<unsigned char*>(destination);
  while (size != 0) {
    const long filled = uninterrupted_call(SYS_getrandom, bytes, size, kDoNotBlock);
    if (filled <= 0) break;
    bytes += filled;
    size -= static_cast<std::size_t>(filled);
  }
  if (size == 0) return;
  std::uint64_t state = mix(monotonic_ns()) ^ mix(reinterpret_cast<std::uintptr_t>(&state)) ^
                        mix(reinterpret_cast<std::uintptr_t>(&random_bytes)) ^ mix(thread_id());
  for (; size != 0; --size) *bytes++ = static_cast<unsigned char>(state = mix(state));
}

void install_message_sink() { set_message_sink(write_to_standard_error); }

}  // namespace polder::os
