// fork while other threads flush all streams, which allocates and frees with the C library's list of streams locked: the
// two orders of locks must not meet.
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

int main() {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (int index = 0; index < 2; ++index) {
    threads.emplace_back([&stop] {
      while (!stop) {
        std::FILE* const stream = std::fopen("/dev/null", "w");
        std::fputs("text", stream);
        std::fflush(nullptr);
        std::fclose(stream);
      }
    });
  }
  int failures = 0;
  for (int round = 0; round < 300; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      std::FILE* const stream = std::fopen("/dev/null", "w");
      std::fputs("child", stream);
      std::fflush(nullptr);
      std::fclose(stream);
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0) ++failures;
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
