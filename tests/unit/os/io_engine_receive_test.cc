// The messages that an engine waits for beside its transfers.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <thread>

#include "unit/os/io_engine_fixture.h"

namespace polder::os {
namespace {

INSTANTIATE_TEST_SUITE_P(Backends, IoEngineTest, on_both_backends(), backend_name);

TEST_P(IoEngineTest, ReceivesMessages) {
  const Result<int> first = make_event();
  const Result<int> second = make_event();
  ASSERT_TRUE(first.ok() && second.ok());
  std::uint64_t counts[2] = {};
  engine_->receive(first.value, &counts[0], sizeof counts[0], 100);
  engine_->receive(second.value, &counts[1], sizeof counts[1], 101);
  EXPECT_EQ(engine_->outstanding(), 0u);
  IoCompletion completions[4];
  engine_->wait(0);
  EXPECT_EQ(engine_->reap(completions, 4), 0u);

  signal_event(second.value);
  signal_event(second.value);
  engine_->wait(-1);
  ASSERT_EQ(engine_->reap(completions, 4), 1u);
  EXPECT_EQ(completions[0].tag, 101u);
  EXPECT_EQ(completions[0].error, kOk);
  EXPECT_EQ(completions[0].bytes, sizeof counts[1]);
  EXPECT_EQ(counts[1], 2u);

  // A message that is there already; and one that arrives while another thread is waited for.
  signal_event(second.value);
  engine_->receive(second.value, &counts[1], sizeof counts[1], 102);
  std::thread late([&] {
    sleep_ms(20);
    signal_event(first.value);
  });
  unsigned seen = 0;
  while (seen < 2) {
    engine_->wait(-1);
    seen += engine_->reap(completions, 4);
  }
  late.join();
  EXPECT_EQ(counts[0], 1u);
  EXPECT_EQ(counts[1], 1u);
  close(first.value);
  close(second.value);
}

TEST_P(IoEngineTest, ReceivesBesideTransfers) {
  const Result<int> event = make_event();
  ASSERT_TRUE(event.ok());
  Buffer buffer(kPageSize);
  iovec vector{buffer.data, kPageSize};
  std::uint64_t count = 0;
  std::uint64_t signals = 0;
  unsigned transfers = 0;
  engine_->receive(event.value, &count, sizeof count, 1000);
  const auto take = [&] {
    IoCompletion completions[3];
    const unsigned got = engine_->reap(completions, 3);
    for (unsigned i = 0; i < got; ++i) {
      EXPECT_EQ(completions[i].error, kOk);
      if (completions[i].tag == 1000) {
        signals += count;
        engine_->receive(event.value, &count, sizeof count, 1000);
      } else {
        ++transfers;
      }
    }
    return got;
  };
  for (int round = 0; round < 200; ++round) {
    engine_->write(file_.fd, &vector, 1, static_cast<std::uint64_t>(round % 8) * kPageSize, 1);
    if (round % 3 == 0) signal_event(event.value);
    engine_->wait(0);
    take();
    while (engine_->outstanding() == kDepth) {
      if (take() == 0) engine_->wait(-1);
    }
  }
  while (engine_->outstanding() != 0 || signals != 67) {
    if (take() == 0) engine_->wait(-1);
  }
  EXPECT_EQ(transfers, 200u);
  close(event.value);
}

TEST_P(IoEngineTest, EndsWithReceivesPending) {
  const Result<int> event = make_event();
  ASSERT_TRUE(event.ok());
  auto count = std::make_unique<std::uint64_t>(0);
  engine_->receive(event.value, count.get(), sizeof *count, 1);
  engine_->wait(0);
  engine_->~IoEngine();
  engine_ = nullptr;
  count.reset();  // nobody writes to it any more
  signal_event(event.value);
  std::uint64_t left = 0;
  EXPECT_EQ(read(event.value, &left, sizeof left), static_cast<ssize_t>(sizeof left));
  EXPECT_EQ(left, 1u);
  close(event.value);
}

TEST_P(IoEngineTest, ReportsADescriptorThatCannotBeRead) {
  std::uint64_t count = 0;
  const Result<int> event = make_event();
  ASSERT_TRUE(event.ok());
  engine_->receive(event.value, &count, 4, 5);  // an event wants eight bytes
  signal_event(event.value);
  IoCompletion completion;
  while (engine_->reap(&completion, 1) == 0) engine_->wait(-1);
  EXPECT_EQ(completion.tag, 5u);
  EXPECT_EQ(completion.error, Errno(EINVAL));
  close(event.value);
}

}  // namespace
}  // namespace polder::os
