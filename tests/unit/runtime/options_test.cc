#include "runtime/options.h"

#include <cerrno>
#include <cstring>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/limits.h"
#include "vm/budget.h"

namespace polder::runtime {
namespace {

struct Parsed {
  OptionsOutcome outcome;
  Options options;
  OptionProblem problem;

  std::string message() const { return std::string(problem.option) + ": " + problem.problem; }
};

Parsed parse(const std::string& text) {
  Parsed parsed;
  parsed.outcome = parse_options(text.c_str(), parsed.options, parsed.problem);
  return parsed;
}

Result<std::uint64_t> size_of(const std::string& text) { return parse_size(text.data(), text.size()); }

TEST(Options, EmptyTextGivesDefaults) {
  const Parsed parsed = parse("");
  EXPECT_EQ(parsed.outcome, OptionsOutcome::valid);
  EXPECT_EQ(parsed.options.memory, 0U);
  EXPECT_STREQ(parsed.options.swap_dir.text, "/var/tmp");
  EXPECT_EQ(parsed.options.swap_size, 0U);
  EXPECT_EQ(parsed.options.io, os::IoBackend::automatic);
  EXPECT_EQ(parsed.options.policy, kDefaultPolicy);
  EXPECT_EQ(parsed.options.watermark_scale, kDefaultWatermarkScale);
  EXPECT_FALSE(parsed.options.hardened);
  EXPECT_TRUE(parsed.options.stats_segment.empty());
  EXPECT_EQ(parsed.options.stats_owner, 0U);
}

TEST(Options, EveryOptionIsRead) {
  const Parsed parsed = parse(
      "memory:64M,swap-dir:/mnt/swap,swap-size:1.5G,io:workers,policy:enhanced-clock,watermark-scale:500,"
      "hardened:1,stats-segment:/dev/shm/x,stats-owner:4711");
  ASSERT_EQ(parsed.outcome, OptionsOutcome::valid) << parsed.message();
  EXPECT_EQ(parsed.options.memory, 64U << 20);
  EXPECT_STREQ(parsed.options.swap_dir.text, "/mnt/swap");
  EXPECT_EQ(parsed.options.swap_size, 3ULL << 29);
  EXPECT_EQ(parsed.options.io, os::IoBackend::workers);
  EXPECT_STREQ(parsed.options.stats_segment.text, "/dev/shm/x");
  EXPECT_EQ(parsed.options.stats_owner, 4711U);
  EXPECT_EQ(parsed.options.watermark_scale, 500U);
  EXPECT_TRUE(parsed.options.hardened);
  EXPECT_FALSE(parse("hardened:1,hardened:0").options.hardened);
}

TEST(Options, LastOfTwoCounts) { EXPECT_EQ(parse("memory:64M,memory:128M").options.memory, 128U << 20); }

TEST(Options, EscapesInStrings) {
  EXPECT_STREQ(parse("swap-dir:/a\\,b\\\\c:d,memory:64M").options.swap_dir.text, "/a,b\\c:d");
  EXPECT_EQ(parse("swap-dir:/a\\,b\\\\c:d,memory:64M").options.memory, 64U << 20);
  EXPECT_STREQ(parse("swap-dir:/a\\").options.swap_dir.text, "/a\\");
}

TEST(Options, ProblemsAreNamed) {
  using testing::HasSubstr;
  const struct {
    const char* text;
    const char* message;
  } cases[] = {
      {"memori:64M", "memori: is not an option"},
      {"memory", "memory: has no value"},
      {"memory,swap-dir:/x", "memory: has no value"},
      {",", ": has no value"},
      {":64M", ": is not an option"},
      {"memory:", "memory: '' is not a size"},
      {"memory:64X", "memory: '64X' is not a size"},
      {"memory:-1", "memory: '-1' is not a size"},
      {"memory:99999999T", "memory: '99999999T' is too large"},
      {"memory:4M", "memory: 4M is below the minimum of 8M"},
      {"memory:8388607", "memory: 8388607 is below the minimum of 8M"},
      {"swap-size:4K", "swap-size: 4K is below the minimum of 256K"},
      {"swap-dir:", "swap-dir: is empty"},
      {"io:fast", "io: 'fast' is none of auto, uring, workers"},
      {"policy:random", "policy: 'random' is none of fifo, clock, enhanced-clock, lru, mglru"},
      {"stats-owner:1x", "stats-owner: '1x' is not a number"},
      {"watermark-scale:0", "watermark-scale: 0 is not between 1 and 1000"},
      {"watermark-scale:1001", "watermark-scale: 1001 is not between 1 and 1000"},
      {"stats-owner:99999999999999999999", "stats-owner: '99999999999999999999' is too large"},
  };
  for (const auto& item : cases) {
    const Parsed parsed = parse(item.text);
    EXPECT_EQ(parsed.outcome, OptionsOutcome::invalid) << item.text;
    EXPECT_THAT(parsed.message(), HasSubstr(item.message)) << item.text;
  }
}

TEST(Options, TheMinimumItselfIsValid) {
  EXPECT_EQ(parse("memory:8M").outcome, OptionsOutcome::valid);
  EXPECT_EQ(parse("swap-size:256K").outcome, OptionsOutcome::valid);
}

TEST(Options, LongTextsNeitherOverflowNorPass) {
  const std::string path(OptionText::kCapacity - 1, 'p');
  EXPECT_EQ(parse("swap-dir:" + path).options.swap_dir.text, path);
  EXPECT_THAT(parse("swap-dir:" + path + "q").message(), testing::HasSubstr("longer than 4095"));
  const Parsed parsed = parse(std::string(10000, 'k') + ":" + std::string(10000, 'v'));
  EXPECT_EQ(parsed.outcome, OptionsOutcome::invalid);
  EXPECT_LT(std::strlen(parsed.problem.option), sizeof parsed.problem.option);
  EXPECT_LT(std::strlen(parse("io:" + std::string(10000, 'v')).problem.problem), sizeof(OptionProblem::problem));
}

TEST(ParseSize, Units) {
  EXPECT_EQ(size_of("0").value, 0U);
  EXPECT_EQ(size_of("1048576").value, 1048576U);
  EXPECT_EQ(size_of("512K").value, 512U << 10);
  EXPECT_EQ(size_of("64m").value, 64U << 20);
  EXPECT_EQ(size_of("64MB").value, 64U << 20);
  EXPECT_EQ(size_of("64mib").value, 64U << 20);
  EXPECT_EQ(size_of("12B").value, 12U);
  EXPECT_EQ(size_of("1.5G").value, 3ULL << 29);
  EXPECT_EQ(size_of("0.25T").value, 1ULL << 38);
  EXPECT_EQ(size_of("0.1K").value, 102U);
  EXPECT_EQ(size_of("1.000000000000000000000001G").value, 1U << 30);
  EXPECT_EQ(size_of("9223372036854775807").value, 9223372036854775807U);
}

TEST(ParseSize, Refusals) {
  for (const char* text :
       {"", "K", ".5G", "1.G", "1.5", "1 G", "1GBB", "1Gi", "1iB", "1.5B", "0x10", "-1", "+1", "1e3"}) {
    EXPECT_EQ(size_of(text).error, Errno(EINVAL)) << text;
  }
  for (const char* text : {"9223372036854775808", "8388608T", "99999999999999999999999999999999999999999999999"}) {
    EXPECT_EQ(size_of(text).error, Errno(ERANGE)) << text;
  }
}

}  // namespace
}  // namespace polder::runtime
