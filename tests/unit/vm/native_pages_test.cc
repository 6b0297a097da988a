#include "vm/native_pages.h"

#include <gtest/gtest.h>

#include <array>
#include <memory>
#include <random>

namespace polder {
namespace {

enum class State { untouched, fresh, settled, guard };

constexpr PageId kFirst{7 * kPagesPerBlock};

bool is_resident(State state) { return state == State::fresh || state == State::settled; }

class NativePagesTest : public testing::Test {
 protected:
  polder::Run random_run() {
    const auto first = static_cast<std::uint32_t>(random_() % kPagesPerBlock);
    const std::uint32_t longest = kPagesPerBlock - first;
    const std::uint64_t length = random_() % 8 == 0 ? longest : 1 + random_() % std::min(longest, 90U);
    return {kFirst + PageCount{first}, {length}};
  }

  State& model(PageId page) { return model_[(page - kFirst).value]; }

  template <typename Change>
  void change(polder::Run run, Change change) {
    for (PageId page = run.first; page < run.end(); ++page) model(page) = change(model(page));
  }

  template <typename Predicate>
  polder::Run first_stretch(polder::Run run, Predicate predicate) {
    PageId first = run.first;
    while (first < run.end() && !predicate(model(first))) ++first;
    PageId end = first;
    while (end < run.end() && predicate(model(end))) ++end;
    return {first, end - first};
  }

  template <typename Predicate>
  PageCount number(polder::Run run, Predicate predicate) {
    PageCount pages;
    for (PageId page = run.first; page < run.end(); ++page) pages.value += predicate(model(page));
    return pages;
  }

  void expect_agreement() {
    for (std::uint32_t i = 0; i < kPagesPerBlock; ++i) {
      const PageId page = kFirst + PageCount{i};
      ASSERT_EQ(pages_->is_resident(page), is_resident(model(page))) << i;
      ASSERT_EQ(pages_->is_fresh(page), model(page) == State::fresh) << i;
      ASSERT_EQ(pages_->is_guard(page), model(page) == State::guard) << i;
    }
    const polder::Run all{kFirst, {kPagesPerBlock}};
    ASSERT_EQ(pages_->resident(), number(all, is_resident));
    ASSERT_EQ(pages_->all_resident(), number(all, is_resident) == all.pages);
    const auto untouched = [](State state) { return state == State::untouched; };
    ASSERT_EQ(pages_->all_untouched(), number(all, untouched) == all.pages);
    const polder::Run run = random_run();
    ASSERT_EQ(pages_->untouched(run), number(run, untouched));
    const auto used = [](State state) { return state == State::settled || state == State::guard; };
    ASSERT_EQ(pages_->has_used(run), number(run, used).value != 0);
    const auto expect_same = [](polder::Run is, polder::Run should_be) {
      ASSERT_EQ(is.first, should_be.first);
      ASSERT_EQ(is.pages, should_be.pages);
    };
    expect_same(pages_->first_resident(run), first_stretch(run, is_resident));
    expect_same(pages_->first_guards(run), first_stretch(run, [](State state) { return state == State::guard; }));
  }

  std::mt19937 random_{1};
  std::array<State, kPagesPerBlock> model_{};
  const std::unique_ptr<NativePages> pages_ = std::make_unique<NativePages>();
};

TEST_F(NativePagesTest, StartUntouched) { expect_agreement(); }

TEST_F(NativePagesTest, WholeBlocks) {
  const polder::Run all{kFirst, {kPagesPerBlock}};
  pages_->provide(all);
  change(all, [](State) { return State::fresh; });
  expect_agreement();
  pages_->settle(all);
  change(all, [](State) { return State::settled; });
  expect_agreement();
  pages_->drop(all);
  change(all, [](State) { return State::untouched; });
  expect_agreement();
  pages_->make_guards(all);
  change(all, [](State) { return State::guard; });
  expect_agreement();
  pages_->end_guards(all);
  change(all, [](State) { return State::untouched; });
  expect_agreement();
}

TEST_F(NativePagesTest, AgreesWithTheModel) {
  for (int step = 0; step < 20'000 && !HasFatalFailure(); ++step) {
    const polder::Run run = random_run();
    switch (random_() % 5) {
      case 0:
        pages_->provide(run);
        change(run, [](State state) { return state == State::untouched ? State::fresh : state; });
        break;
      case 1:
        pages_->settle(run);
        change(run, [](State state) { return state == State::fresh ? State::settled : state; });
        break;
      case 2:
        pages_->drop(run);
        change(run, [](State state) { return is_resident(state) ? State::untouched : state; });
        break;
      case 3: {
        const polder::Run untouched = first_stretch(run, [](State state) { return state == State::untouched; });
        pages_->make_guards(untouched);
        change(untouched, [](State) { return State::guard; });
        break;
      }
      default: {
        const polder::Run guards = first_stretch(run, [](State state) { return state == State::guard; });
        pages_->end_guards(guards);
        change(guards, [](State) { return State::untouched; });
      }
    }
    if (step % 16 == 0) expect_agreement();
  }
}

TEST_F(NativePagesTest, MisuseIsFound) {
  pages_->provide({kFirst, {10}});
  EXPECT_DEATH(pages_->make_guards({kFirst + PageCount{9}, {2}}), "only untouched pages become guards");
  EXPECT_DEATH(pages_->end_guards({kFirst, {1}}), "pages are guards");
}

}  // namespace
}  // namespace polder
