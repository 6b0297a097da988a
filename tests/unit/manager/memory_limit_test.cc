// Limits of a Manager: when paging begins, and limits that are changed while it runs.
#include <gtest/gtest.h>

#include <cerrno>
#include <thread>
#include <vector>

#include "unit/manager/manager_objects_fixture.h"

namespace polder {
namespace {

class MemoryLimitTest : public ManagerObjectsFixture {};

TEST_P(MemoryLimitTest, NothingRunsUntilTheLimitIsApproached) {
  start(64 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 20000; ++i) objects.push_back(make(1000, i));
  EXPECT_FALSE(manager_->pager().armed());
  EXPECT_FALSE(manager_->pager().backing().under_pressure());
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
}

TEST_P(MemoryLimitTest, ALoweredLimitHoldsWhenTheCallReturns) {
  start(64 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 48; ++i) objects.push_back(make(kMiB, i));
  ASSERT_TRUE(manager_->set_memory_limit(16 * kMiB).ok());
  EXPECT_LE(resident(), 16 * kMiB);
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  ASSERT_TRUE(manager_->set_memory_limit(0).ok());
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  EXPECT_EQ(manager_->set_memory_limit(4096).code(), EINVAL);
}

TEST_P(MemoryLimitTest, AChangedLimitIsReachedWithoutWaitingForIt) {
  start(64 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 48; ++i) objects.push_back(make(kMiB, i));
  EXPECT_TRUE(manager_->begin_to_fit().ok());
  EXPECT_EQ(manager_->change_memory_limit(4096).code(), EINVAL);
  EXPECT_EQ(manager_->memory_limit(), 64 * kMiB);
  ASSERT_TRUE(manager_->change_memory_limit(16 * kMiB).ok());
  EXPECT_EQ(manager_->memory_limit(), 16 * kMiB);
  Errno outlook = manager_->begin_to_fit();
  EXPECT_EQ(outlook.code(), EAGAIN);
  for (; outlook.code() == EAGAIN; outlook = manager_->begin_to_fit()) std::this_thread::yield();
  EXPECT_TRUE(outlook.ok());
  EXPECT_LE(resident(), 16 * kMiB);
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
}

TEST_P(MemoryLimitTest, ALimitThatCannotBeReachedIsSaidToBeSo) {
  start(64 * kMiB, 8 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 40; ++i) objects.push_back(make(kMiB, i));
  ASSERT_TRUE(manager_->change_memory_limit(16 * kMiB).ok());
  Errno outlook = manager_->begin_to_fit();
  for (; outlook.code() == EAGAIN; outlook = manager_->begin_to_fit()) std::this_thread::yield();
  EXPECT_EQ(outlook.code(), ETIMEDOUT);
  ASSERT_TRUE(manager_->change_memory_limit(0).ok());
  EXPECT_TRUE(manager_->begin_to_fit().ok());
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
}

// Eight times as early as by default, of the smallest limit that the command takes.
TEST_P(MemoryLimitTest, ReclaimMayBeginFarFromASmallLimit) {
  watermark_scale_ = 1000;
  start(8 * kMiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 32; ++i) objects.push_back(make(kMiB, i));
  EXPECT_TRUE(manager_->pager().armed());
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  EXPECT_LE(resident(), 8 * kMiB);
  manager_->verify();
}

// What the library must know of each page counts, and stays: more of that than the limit would leave room for nothing else.
TEST_P(MemoryLimitTest, WhatCouldNotEvenBeDescribedIsRefused) {
  constexpr std::size_t kGiB = std::size_t{1} << 30;
  start(16 * kMiB, 512 * kMiB, 16 * kGiB);
  std::vector<Object> objects;
  for (std::uint64_t i = 0; i < 4; ++i) objects.push_back(make(kMiB, i));
  EXPECT_EQ(manager_->heap().allocate(cache_, 10 * kGiB), nullptr);
  EXPECT_LT(manager_->budget().metadata().value * kPageSize, 2 * kMiB);
  for (std::uint64_t i = 4; i < 32; ++i) objects.push_back(make(kMiB, i));
  for (const Object& object : objects) ASSERT_TRUE(holds(object));
  EXPECT_LE(resident(), 16 * kMiB);
}

INSTANTIATE_TEST_SUITE_P(Backends, MemoryLimitTest, on_both_backends(), backend_name);

}  // namespace
}  // namespace polder
