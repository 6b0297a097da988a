#include "os/io_operation.h"

#include <gtest/gtest.h>
#include <sys/uio.h>

#include <cerrno>
#include <vector>

#include "base/units.h"
#include "os/thread.h"

namespace polder::os {
namespace {

TEST(IoOperation, ContinuesAfterShortTransfers) {
  char bytes[100];
  const iovec vectors[] = {{bytes, 10}, {bytes + 10, 20}, {bytes + 30, 70}};
  IoOperation operation{};
  operation.vectors = vectors;
  operation.count = 3;
  operation.offset = 1000;
  EXPECT_FALSE(operation.advance(4));
  EXPECT_EQ(operation.offset, 1004u);
  EXPECT_EQ(operation.count, 3u);
  EXPECT_EQ(operation.vectors[0].iov_base, bytes + 4);
  EXPECT_EQ(operation.vectors[0].iov_len, 6u);
  EXPECT_FALSE(operation.advance(6));  // exactly one vector
  EXPECT_EQ(operation.count, 2u);
  EXPECT_EQ(operation.vectors[0].iov_base, bytes + 10);
  EXPECT_FALSE(operation.advance(-EINTR));
  EXPECT_FALSE(operation.advance(-EAGAIN));
  EXPECT_FALSE(operation.advance(25));  // one and a part of the next
  EXPECT_EQ(operation.count, 1u);
  EXPECT_EQ(operation.vectors[0].iov_base, bytes + 35);
  EXPECT_EQ(operation.vectors[0].iov_len, 65u);
  EXPECT_EQ(operation.offset, 1035u);
  EXPECT_TRUE(operation.advance(65));
  EXPECT_EQ(operation.error, kOk);
  EXPECT_EQ(vectors[0].iov_len, 10u);  // the submitter's array is his
}

TEST(IoOperation, EndsAtErrorsAndAtTheEndOfTheFile) {
  char bytes[10];
  const iovec vector{bytes, 10};
  IoOperation operation{};
  operation.vectors = &vector;
  operation.count = 1;
  EXPECT_TRUE(operation.advance(-ENOSPC));
  EXPECT_EQ(operation.error, Errno(ENOSPC));
  EXPECT_TRUE(operation.advance(0));
  EXPECT_EQ(operation.error, Errno(EIO));
}

TEST(IoTable, ReusesEntriesAndKeepsListsInOrder) {
  IoTable table;
  ASSERT_EQ(table.init(4), kOk);
  char byte;
  const iovec vector{&byte, 1};
  IoList list;
  for (std::uint64_t tag = 0; tag < 4; ++tag) {
    table.append(list, table.take(IoDirection::read, 0, &vector, 1, 0, tag));
  }
  EXPECT_EQ(table.taken(), 4u);
  install_message_sink();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(table.take(IoDirection::read, 0, &vector, 1, 0, 9), "more I/O than the engine's depth");
  for (std::uint64_t tag = 0; tag < 4; ++tag) {
    const std::uint32_t index = table.remove_first(list);
    EXPECT_EQ(table[index].tag, tag);
    table.give_back(index);
    EXPECT_EQ(table.take(IoDirection::write, 0, &vector, 1, 0, tag), index);
    table.give_back(index);
  }
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(table.taken(), 0u);
}

}  // namespace
}  // namespace polder::os
