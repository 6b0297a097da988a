// A Manager with a limit, for tests that run on both I/O backends; skipped where this machine does not allow paging. A
// test that hangs is aborted with a word about it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "manager/manager.h"
#include "os/thread.h"
#include "os/userfaultfd.h"
#include "vm/budget.h"

namespace polder {

inline constexpr std::size_t kMiB = std::size_t{1} << 20;
inline constexpr unsigned kWatchdogSeconds = 400;

class ManagerFixture : public ::testing::TestWithParam<os::IoBackend> {
 protected:
  static void SetUpTestSuite() { os::install_message_sink(); }

  void SetUp() override {
    const Result<os::UffdFeatures> features = os::Userfaultfd::probe();
    if (!features.ok() || !features.value.move) GTEST_SKIP() << "this machine does not allow paging";
    std::signal(SIGALRM, on_alarm);
    alarm(kWatchdogSeconds);
  }
  void TearDown() override {
    if (manager_ != nullptr) manager_->heap().destroy_cache(cache_);
    manager_.reset();
    alarm(0);
    std::signal(SIGALRM, SIG_DFL);
  }

  void start(std::size_t limit, std::uint64_t swap_bytes = 512 * kMiB, std::size_t arena_bytes = 512 * kMiB,
             Hardening hardening = Hardening::off) {
    ManagerOptions options;
    options.memory_limit_bytes = limit;
    options.swap_bytes = swap_bytes;
    options.io = GetParam();
    options.arena_bytes = arena_bytes;
    options.smallest_arena_bytes = arena_bytes;
    options.hardening = hardening;
    options.watermark_scale = watermark_scale_;
    manager_ = std::make_unique<Manager>(options);
    manager_->allow_threads();
    cache_ = manager_->heap().create_cache();
    ASSERT_NE(cache_, nullptr);
  }

  std::uint32_t watermark_scale_ = kDefaultWatermarkScale;  // of start()
  std::unique_ptr<Manager> manager_;
  ThreadCache* cache_ = nullptr;  // the main thread's

 private:
  static void on_alarm(int /*signal*/) {
    constexpr char kText[] = "a thread still waits, after 400 seconds\n";
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, kText, sizeof kText - 1);
    abort();
  }
};

inline auto on_both_backends() { return ::testing::Values(os::IoBackend::uring, os::IoBackend::workers); }
inline std::string backend_name(const ::testing::TestParamInfo<os::IoBackend>& backend) {
  return backend.param == os::IoBackend::uring ? "uring" : "workers";
}

}  // namespace polder
