// The ways in which a program ends, each with everything that runs then allocating and freeing: argv[1] names one. What
// runs, and in which order, is printed; all memory is checked.
#include <pthread.h>
#include <unistd.h>
#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>
#include <vector>

extern "C" int chosen();  // its resolver allocates (loading/loading.cc)
bool was_foreign_freed();

namespace {

void churn(const char* where) {
  static std::atomic<unsigned> seed{1};
  void* blocks[100];
  const unsigned mark = seed++ & 0xff;
  for (unsigned index = 0; index < 100; ++index) {
    const std::size_t size = index % 25 == 0 ? 200000 + index : index * index;
    blocks[index] = std::malloc(size + 1);
    std::memset(blocks[index], static_cast<int>(mark), size + 1);
  }
  for (unsigned index = 0; index < 100; ++index) {
    const std::size_t size = index % 25 == 0 ? 200000 + index : index * index;
    const auto* const bytes = static_cast<unsigned char*>(blocks[index]);
    if (bytes[0] != mark || bytes[size] != mark) {
      std::printf("damaged in %s\n", where);
      std::fflush(stdout);
      std::abort();
    }
    std::free(blocks[index]);
  }
}

void say(const char* what) {
  churn(what);
  std::printf("%s\n", what);
}

// The constructors and destructors of C++ and of the object format.
struct Global {
  std::vector<std::string> texts;
  Global() : texts(100, std::string(100, 'g')) {}
  ~Global() { say("global"); }
} global;
[[gnu::destructor]] void destruct() { say("destructor"); }

struct Local {
  std::string text = std::string(1000, 'l');
  ~Local() {
    churn("thread_local");
    if (text[999] != 'l') std::abort();
  }
};
thread_local Local local;

// A key that is set again in each of the rounds that there are, and keeps something allocated from one to the next.
pthread_key_t key;
std::atomic<int> key_rounds{0};
void destroy_value(void* value) {
  ++key_rounds;
  churn("key");
  std::free(value);
  pthread_setspecific(key, std::malloc(500));  // the last round's is lost, as POSIX has it
}

void use_thread_state() {
  local.text += 'x';
  pthread_setspecific(key, std::malloc(100));
}

// Goes on after main has ended, until the process is gone.
void* outlive(void*) {
  use_thread_state();
  for (;;) churn("detached thread");
}

void start_detached(unsigned count) {
  for (unsigned index = 0; index < count; ++index) {
    pthread_t thread;
    pthread_create(&thread, nullptr, outlive, nullptr);
    pthread_detach(thread);
  }
}

void register_handlers() {
  std::atexit([] { say("atexit"); });
  std::at_quick_exit([] { say("at_quick_exit"); });
  on_exit([](int status, void*) { std::printf("on_exit %d\n", status), churn("on_exit"); }, nullptr);
}

int finish_threads() {
  std::vector<std::thread> threads;
  for (int index = 0; index < 8; ++index) threads.emplace_back(use_thread_state);
  for (std::thread& thread : threads) thread.join();
  std::printf("%d rounds of keys\n", key_rounds.load());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  pthread_key_create(&key, destroy_value);
  register_handlers();
  use_thread_state();
  std::printf("chosen %d, foreign %d\n", chosen(), was_foreign_freed());
  const std::string way = argc == 2 ? argv[1] : "";
  if (way == "return") return finish_threads();
  if (way == "exit") std::exit(3);
  if (way == "quick_exit") {
    std::fflush(stdout);
    std::at_quick_exit([] { std::fflush(stdout); });
    say("quick_exit");
    std::quick_exit(4);
  }
  if (way == "_exit") {
    say("_exit");
    std::fflush(stdout);
    _exit(5);
  }
  if (way == "exit_in_thread") {
    std::thread([] {
      use_thread_state();
      std::exit(6);
    }).join();
  }
  if (way == "pthread_exit") {
    std::thread([] {
      use_thread_state();
      usleep(50000);
      say("last thread");
    }).detach();
    pthread_exit(nullptr);
  }
  if (way == "detached") {
    start_detached(3);
    usleep(2000);
    return 7;
  }
  if (way == "detached_quick") {
    start_detached(3);
    usleep(2000);
    std::fflush(stdout);
    std::quick_exit(8);
  }
  return 2;
}
