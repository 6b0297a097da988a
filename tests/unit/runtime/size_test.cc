#include <gtest/gtest.h>

#include <cerrno>
#include <cstdint>
#include <string_view>

#include "runtime/options.h"

namespace polder::runtime {
namespace {

Result<std::uint64_t> size_of(std::string_view text) { return parse_size(text.data(), text.size()); }

struct Case {
  const char* text;
  std::uint64_t bytes;
};

TEST(Size, ReadsBytesUnitsAndFractions) {
  for (const Case& example :
       {Case{"0", 0}, Case{"1048576", 1048576}, Case{"12B", 12}, Case{"512K", 512U << 10}, Case{"64M", 64U << 20},
        Case{"64m", 64U << 20}, Case{"64MB", 64U << 20}, Case{"64MiB", 64U << 20}, Case{"64mib", 64U << 20},
        Case{"3T", std::uint64_t{3} << 40}, Case{"1.5G", std::uint64_t{3} << 29}, Case{"0.5k", 512}, Case{"0.1K", 102},
        Case{"2.0000000000000000001MiB", 2U << 20}, Case{"8388607T", std::uint64_t{8388607} << 40}}) {
    const Result<std::uint64_t> size = size_of(example.text);
    ASSERT_TRUE(size.ok()) << example.text;
    EXPECT_EQ(size.value, example.bytes) << example.text;
  }
}

TEST(Size, RefusesWhatIsNoSize) {
  for (const char* text :
       {"",    "M",    "-1", "+1",  " 1",    "1 ",     "64Q",  "64MM", "64iB", "64Mi", "64MiBs", "64BB",
        "1.5", "1.5B", "1.", ".5M", "1..5M", "1.5.5M", "0x10", "1e9",  "64 M", "1,5G", "B",      "64Bi"}) {
    EXPECT_EQ(size_of(text).error.code(), EINVAL) << text;
  }
}

TEST(Size, RefusesWhatDoesNotFit) {
  for (const char* text : {"18446744073709551616", "99999999999999999999G", "16777216T", "8388608T"}) {
    EXPECT_EQ(size_of(text).error.code(), ERANGE) << text;
  }
}

}  // namespace
}  // namespace polder::runtime
