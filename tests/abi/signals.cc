// Signal handlers that allocate and free, in a storm of timer signals to every thread: while the program computes, waits in
// system calls and for evicted memory. Around its own malloc and free it blocks the signal, as it must on any allocator
// whose malloc is not safe in handlers. Every byte of every block is checked.
#include <pthread.h>
#include <sys/time.h>
#include <unistd.h>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <thread>
#include <vector>

namespace {

struct Block {
  unsigned char* memory = nullptr;
  std::size_t size = 0;
  unsigned char mark = 0;

  bool make(std::size_t wanted, unsigned char with) {
    memory = static_cast<unsigned char*>(std::malloc(wanted));
    if (memory == nullptr) return false;
    size = wanted;
    mark = with;
    std::memset(memory, mark, size);
    return true;
  }
  bool holds() const {
    for (std::size_t index = 0; index < size; ++index) {
      if (memory[index] != mark) return false;
    }
    return true;
  }
  void drop() {
    std::free(memory);
    memory = nullptr;
    size = 0;
  }
};

constexpr unsigned kHeld = 16;

// A handler's own, of its thread: it interrupts nobody who uses it.
struct HandlerState {
  Block blocks[kHeld];
  unsigned random = 1;
};
thread_local HandlerState handler_state;

std::atomic<long> handled{0};
std::atomic<bool> damaged{false};

std::size_t size_from(unsigned random) { return (random >> 8) % ((random >> 28) == 0 ? 200000 : 1500); }

void handle(int) {
  const int error = errno;
  HandlerState& state = handler_state;
  for (int step = 0; step < 4; ++step) {
    state.random = state.random * 1103515245U + 12345U;
    Block& block = state.blocks[(state.random >> 16) % kHeld];
    if (!block.holds()) damaged = true;
    block.drop();
    if (!block.make(size_from(state.random), static_cast<unsigned char>(state.random >> 4))) damaged = true;
  }
  ++handled;
  errno = error;
}

// The signal is blocked everywhere but where one of these is.
class SignalOpen {
 public:
  SignalOpen() { set(SIG_UNBLOCK); }
  ~SignalOpen() { set(SIG_BLOCK); }
  SignalOpen(const SignalOpen&) = delete;
  SignalOpen& operator=(const SignalOpen&) = delete;

  static void set(int how) {
    sigset_t storm;
    sigemptyset(&storm);
    sigaddset(&storm, SIGALRM);
    pthread_sigmask(how, &storm, nullptr);
  }
};

std::atomic<bool> stop{false};

void pause_for(long ns) {
  const timespec pause{.tv_sec = 0, .tv_nsec = ns};
  nanosleep(&pause, nullptr);
}

// Computes over blocks of its own, and now and then replaces one.
void work(unsigned seed) {
  std::vector<Block> blocks(3000);
  for (std::size_t index = 0; index < blocks.size(); ++index) {
    blocks[index].make(100 + index * 7 % 5000, static_cast<unsigned char>(index + seed));
  }
  unsigned random = seed;
  while (!stop) {
    Block* block = nullptr;
    {
      const SignalOpen open;
      for (int step = 0; step < 8; ++step) {
        random = random * 1103515245U + 12345U;
        block = &blocks[(random >> 8) % blocks.size()];
        if (!block->holds()) damaged = true;
      }
      if (random >> 24 == 0) pause_for(1000000);
    }
    block->drop();
    block->make(size_from(random * 7), static_cast<unsigned char>(random));
  }
  for (Block& block : blocks) {
    if (!block.holds()) damaged = true;
    block.drop();
  }
  for (Block& block : handler_state.blocks) block.drop();
}

}  // namespace

int main() {
  struct sigaction action {};
  action.sa_handler = handle;
  action.sa_flags = SA_RESTART;
  sigaction(SIGALRM, &action, nullptr);
  SignalOpen::set(SIG_BLOCK);  // inherited
  std::vector<std::thread> threads;
  for (unsigned index = 0; index < 3; ++index) threads.emplace_back(work, index);
  const itimerval storm{.it_interval = {.tv_sec = 0, .tv_usec = 50}, .it_value = {.tv_sec = 0, .tv_usec = 50}};
  setitimer(ITIMER_REAL, &storm, nullptr);
  constexpr long kStorms = 20000;
  while (handled < kStorms) {
    // The timer sends to the process; this reaches each thread, also those that would not be chosen.
    for (std::thread& thread : threads) pthread_kill(thread.native_handle(), SIGALRM);
    const SignalOpen open;
    pause_for(20000);
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  std::printf("%s\n", damaged ? "damaged" : "ok");
  return damaged ? 1 : 0;
}
