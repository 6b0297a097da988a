// An engine of each backend and a file in /var/tmp; skipped where the backend is refused.
#pragma once

#include <gtest/gtest.h>
#include <sys/uio.h>

#include <string>
#include <vector>

#include "base/units.h"
#include "os/file.h"
#include "os/io_engine.h"
#include "os/mapping.h"
#include "os/thread.h"
#include "unit/os/child.h"

namespace polder::os {

inline constexpr unsigned kDepth = 32;

// Page-aligned memory that ends with its scope.
struct Buffer {
  explicit Buffer(std::size_t bytes) : size(bytes), data(map_private(bytes).value) {}
  ~Buffer() { release(data, size); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  const std::size_t size;
  char* const data;
};

class IoEngineTest : public testing::TestWithParam<IoBackend> {
 protected:
  void SetUp() override {
    install_message_sink();
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    const test::ErrnoWitness witness;
    const Result<IoEngine*> made = make_io_engine(storage_, GetParam(), kDepth);
    EXPECT_TRUE(witness.untouched());
    if (!made.ok()) GTEST_SKIP() << "this backend is refused: errno " << made.error.code();
    engine_ = made.value;
    const Result<int> directory = open_directory("/var/tmp");
    ASSERT_TRUE(directory.ok());
    const Result<TemporaryFile> file = open_temporary(directory.value);
    ASSERT_TRUE(file.ok());
    close(directory.value);
    file_ = file.value;
  }

  void TearDown() override {
    if (engine_ != nullptr) engine_->~IoEngine();
    if (file_.fd >= 0) close(file_.fd);
  }

  // Submits and waits for everything outstanding.
  std::vector<IoCompletion> finish() { return finish(*engine_); }
  static std::vector<IoCompletion> finish(IoEngine& engine) {
    std::vector<IoCompletion> all;
    engine.submit();
    while (engine.outstanding() != 0) {
      IoCompletion some[5];
      const unsigned count = engine.reap(some, 5);
      all.insert(all.end(), some, some + count);
      if (count == 0) engine.wait(10000);
    }
    return all;
  }

  Errno finish_one() {
    const std::vector<IoCompletion> all = finish();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? Errno(ECANCELED) : all[0].error;
  }

  IoEngineStorage storage_;
  IoEngine* engine_ = nullptr;
  TemporaryFile file_;
};

inline auto on_both_backends() { return testing::Values(IoBackend::uring, IoBackend::workers); }
inline std::string backend_name(const testing::TestParamInfo<IoBackend>& backend) {
  return backend.param == IoBackend::uring ? "uring" : "workers";
}

}  // namespace polder::os
