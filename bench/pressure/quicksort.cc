// Quicksort of an array of 64-bit numbers, each thread a part of its own. The lower sixteen bits of a number are a check of
// the others. An operation moves the two cursors of a partition by a page's worth of numbers together, or sorts so many
// in small ranges. At last the order is checked, and that no number came or went.
#include <algorithm>
#include <utility>
#include <vector>

#include "pressure/record.h"
#include "pressure/workload.h"

namespace polder::bench {
namespace {

constexpr std::size_t kNumbersPerOperation = 512;
constexpr std::size_t kSmallRange = 32;

constexpr std::uint64_t number_of(std::uint64_t key) {
  return (key & ~std::uint64_t{0xFFFF}) | ((key >> 16) * 0x9E3779B97F4A7C15U >> 48);
}

class Sorter final : public Worker {
 public:
  Sorter(std::uint64_t* numbers, std::size_t count, std::uint64_t sum) : numbers_(numbers), count_(count), sum_(sum) {
    ranges_.reserve(128);
    begin(0, count);
  }

  Progress operate() override {
    std::size_t left = kNumbersPerOperation;
    while (left > 0) {
      if (partitioning_) {
        left -= std::min(left, partition(left));
      } else if (!ranges_.empty()) {
        const Range range = ranges_.back();
        ranges_.pop_back();
        left -= std::min(left, begin(range.first, range.second));
      } else {
        return verify(left);
      }
    }
    return Progress::more;
  }

 private:
  using Range = std::pair<std::size_t, std::size_t>;  // first, end

  std::uint64_t read(std::size_t index) const {
    PageRecord::touch(numbers_ + index, sizeof(std::uint64_t));
    const std::uint64_t number = numbers_[index];
    if (number != number_of(number)) [[unlikely]]
      fail_at("a number is damaged", index, 0);
    return number;
  }

  // Sorts a small range, begins with a large one. How many numbers it looked at.
  std::size_t begin(std::size_t first, std::size_t end) {
    if (end - first <= kSmallRange) {
      for (std::size_t i = first; i < end; ++i) {
        const std::uint64_t number = read(i);
        std::size_t at = i;
        for (; at > first && numbers_[at - 1] > number; --at) numbers_[at] = numbers_[at - 1];
        numbers_[at] = number;
      }
      return end - first + 1;
    }
    first_ = low_ = first;
    end_ = high_ = end;
    const std::uint64_t a = read(first);
    const std::uint64_t b = read(first + (end - first) / 2);
    const std::uint64_t c = read(end - 1);
    pivot_ = std::max(std::min(a, b), std::min(std::max(a, b), c));
    partitioning_ = true;
    return 3;
  }

  // Hoare's: what is before low is at most the pivot, what is from high on at least. How far the cursors moved.
  std::size_t partition(std::size_t most) {
    std::size_t moved = 0;
    while (moved < most) {
      if (low_ == high_) {
        partitioning_ = false;
        push({first_, low_}, {low_, end_});
        return moved;
      }
      ++moved;
      if (read(low_) < pivot_) {
        ++low_;
      } else if (read(high_ - 1) > pivot_) {
        --high_;
      } else if (low_ + 1 < high_) {
        std::swap(numbers_[low_++], numbers_[--high_]);
        ++moved;
      } else if (low_ == first_) {  // the pivot, and no part may be empty
        ++low_;
      } else {
        --high_;
      }
    }
    return moved;
  }
  void push(Range before, Range after) {
    // The larger one waits, so that few do.
    if (before.second - before.first < after.second - after.first) std::swap(before, after);
    ranges_.push_back(before);
    ranges_.push_back(after);
  }

  Progress verify(std::size_t most) {
    for (; most > 0 && verified_ < count_; ++verified_, --most) {
      const std::uint64_t number = read(verified_);
      if (number < last_) fail_at("numbers are not in order", verified_, 0);
      last_ = number;
      sum_ -= number;
    }
    if (verified_ < count_) return Progress::more;
    if (sum_ != 0) fail("numbers came or went");
    return Progress::done;
  }

  std::uint64_t* numbers_;
  std::size_t count_;
  std::uint64_t sum_;  // of those that were not verified
  std::vector<Range> ranges_;
  bool partitioning_ = false;  // [first, end); what is from low to high is not looked at yet
  std::size_t first_ = 0;
  std::size_t end_ = 0;
  std::size_t low_ = 0;
  std::size_t high_ = 0;
  std::uint64_t pivot_ = 0;
  std::size_t verified_ = 0;
  std::uint64_t last_ = 0;
};

class Quicksort final : public Workload {
 public:
  explicit Quicksort(const Settings& settings)
      : share_(settings.bytes / sizeof(std::uint64_t) / settings.threads),
        sums_(settings.threads),
        numbers_(static_cast<std::uint64_t*>(allocate(share_ * settings.threads * sizeof(std::uint64_t)))) {
    if (share_ == 0) fail("too little data for so many threads");
    for (unsigned index = 0; index < settings.threads; ++index) {
      Random random = random_for(settings, index);
      for (std::size_t i = 0; i < share_; ++i) {
        const std::uint64_t number = number_of(random.next());
        PageRecord::touch(numbers_ + index * share_ + i, sizeof number);
        numbers_[index * share_ + i] = number;
        sums_[index] += number;
      }
    }
  }

  Length length() const override { return Length::finite; }
  std::unique_ptr<Worker> worker(unsigned index) override {
    return std::make_unique<Sorter>(numbers_ + index * share_, share_, sums_[index]);
  }

 private:
  std::size_t share_;
  std::vector<std::uint64_t> sums_;
  std::uint64_t* numbers_;
};

}  // namespace

std::unique_ptr<Workload> make_quicksort(const Settings& settings) { return std::make_unique<Quicksort>(settings); }

}  // namespace polder::bench
