#include "os/cgroup.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "unit/os/child.h"

namespace polder::os {
namespace {

class CgroupTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/polder-cgroup-XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void write(const std::string& path, const std::string& content) {
    const std::filesystem::path file = root_ / path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }
  bool rationed() {
    const test::ErrnoWitness witness;
    const bool answer = cpu_is_rationed((root_ / "membership").c_str(), (root_ / "mount").c_str());
    EXPECT_TRUE(witness.untouched());
    return answer;
  }

  std::filesystem::path root_;
};

TEST_F(CgroupTest, NothingThereMeansNoLimit) {
  EXPECT_FALSE(rationed());
  write("membership", "garbage\n\n:\n0::\n3:cpu\n");
  EXPECT_FALSE(rationed());
}

TEST_F(CgroupTest, VersionTwoLimitsByCpuMax) {
  write("membership", "0::/a/b\n");
  write("mount/a/b/cpu.max", "max 100000\n");
  EXPECT_FALSE(rationed());
  write("mount/a/cpu.max", "150000 100000\n");
  EXPECT_TRUE(rationed()) << "a group above";
  write("mount/a/cpu.max", "max 100000\n");
  write("mount/a/b/cpu.max", "50000 100000\n");
  EXPECT_TRUE(rationed());
}

TEST_F(CgroupTest, VersionTwoInsideAContainer) {
  write("membership", "0::/\n");
  EXPECT_FALSE(rationed());
  write("mount/cpu.max", "50000 100000\n");
  EXPECT_TRUE(rationed());
}

TEST_F(CgroupTest, APathThatIsNotVisibleHereLeavesTheMountsRoot) {
  write("membership", "0::/docker/0123\n");
  write("mount/cpu.max", "50000 100000\n");
  EXPECT_TRUE(rationed());
}

TEST_F(CgroupTest, VersionOneLimitsByQuota) {
  write("membership", "7:cpuset:/x\n4:cpu,cpuacct:/job\n2:memory:/\n");
  write("mount/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
  EXPECT_FALSE(rationed());
  write("mount/cpu,cpuacct/cpu.cfs_quota_us", "20000\n");
  EXPECT_TRUE(rationed());
}

TEST_F(CgroupTest, OtherControllersDoNotCount) {
  write("membership", "7:cpuset:/job\n3:cpuacct:/job\n");
  write("mount/cpu/job/cpu.cfs_quota_us", "20000\n");
  EXPECT_FALSE(rationed());
}

}  // namespace
}  // namespace polder::os
