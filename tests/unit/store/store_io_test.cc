// The store's pages through the I/O engines, as the pager moves them: runs out, single pages back, many in flight.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/uio.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "os/io_engine.h"
#include "unit/store/scratch.h"

namespace polder {
namespace {

using test::ScratchDirectory;
using test::TestPage;

constexpr std::uint64_t kMiB = 1 << 20;
constexpr unsigned kDepth = 32;

class StoreIoTest : public testing::TestWithParam<os::IoBackend> {
 protected:
  void SetUp() override {
    const Result<os::IoEngine*> engine = os::make_io_engine(storage_, GetParam(), kDepth);
    if (!engine.ok() && GetParam() == os::IoBackend::uring) GTEST_SKIP() << "io_uring is refused here";
    ASSERT_TRUE(engine.ok());
    engine_ = engine.value;
    ASSERT_TRUE(store_.open({.swap_directory = directory_.path(), .swap_bytes = 64 * kMiB}).ok());
  }
  void TearDown() override {
    if (engine_ != nullptr) engine_->~IoEngine();
  }
  // Waits until fewer than `most` transfers are under way.
  void drain(unsigned most) {
    engine_->submit();
    while (engine_->outstanding() >= std::max(most, 1U)) {
      engine_->wait(-1);
      os::IoCompletion completions[kDepth];
      const unsigned count = engine_->reap(completions, kDepth);
      for (unsigned i = 0; i < count; ++i) ASSERT_TRUE(completions[i].error.ok()) << completions[i].error.code();
    }
  }

  ScratchDirectory directory_;
  Budget budget_{Budget::kUnlimited};
  Store store_{budget_};
  os::IoEngineStorage storage_;
  os::IoEngine* engine_ = nullptr;
};

TEST_P(StoreIoTest, RunsOutPagesBack) {
  constexpr unsigned kPages = 2000;
  constexpr unsigned kRun = 48;
  const auto pages = std::make_unique<TestPage[]>(kPages);
  const auto vectors = std::make_unique<iovec[]>(kPages);
  std::vector<Location> locations;
  for (unsigned i = 0; i < kPages; ++i) {
    pages[i].fill(i);
    vectors[i] = {pages[i].bytes, kPageSize};
  }
  while (locations.size() < kPages) {
    const unsigned done = static_cast<unsigned>(locations.size());
    const SlotRun run = store_.allocate_slots(std::min(kRun, kPages - done));
    ASSERT_NE(run.count, 0U);
    drain(kDepth);
    engine_->write(store_.fd(run[0]), &vectors[done], run.count, store_.offset(run[0]), done);
    for (unsigned i = 0; i < run.count; ++i) locations.push_back(run[i]);
  }
  drain(0);
  for (unsigned i = 0; i < kPages; ++i) store_.commit(locations[i], hash_page(pages[i].bytes));

  const auto back = std::make_unique<TestPage[]>(kPages);
  std::vector<unsigned> order(kPages);
  for (unsigned i = 0; i < kPages; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  for (const unsigned i : order) {
    drain(kDepth);
    vectors[i] = {back[i].bytes, kPageSize};
    engine_->read(store_.fd(locations[i]), &vectors[i], 1, store_.offset(locations[i]), i);
    if (i % 7 == 0) engine_->submit();
  }
  drain(0);
  for (unsigned i = 0; i < kPages; ++i) {
    ASSERT_TRUE(store_.matches(locations[i], back[i].bytes)) << i;
    ASSERT_EQ(std::memcmp(back[i].bytes, pages[i].bytes, kPageSize), 0) << i;
  }
  store_.verify();
}

TEST_P(StoreIoTest, DamageOnDiskIsNoticed) {
  const Location location = test::store_page(store_, 1);
  ASSERT_FALSE(location.is_none());
  TestPage page;
  iovec vector{page.bytes, kPageSize};
  engine_->read(store_.fd(location), &vector, 1, store_.offset(location), 0);
  drain(0);
  EXPECT_TRUE(store_.matches(location, page.bytes));
  page.bytes[1234] ^= 1;
  ASSERT_EQ(pwrite(store_.fd(location), page.bytes, kPageSize, static_cast<off_t>(store_.offset(location))),
            static_cast<ssize_t>(kPageSize));
  engine_->read(store_.fd(location), &vector, 1, store_.offset(location), 0);
  drain(0);
  EXPECT_FALSE(store_.matches(location, page.bytes));
}

INSTANTIATE_TEST_SUITE_P(Backends, StoreIoTest, testing::Values(os::IoBackend::uring, os::IoBackend::workers),
                         [](const auto& test) { return test.param == os::IoBackend::uring ? "uring" : "workers"; });

}  // namespace
}  // namespace polder
