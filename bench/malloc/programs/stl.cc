// A C++ program as many are: containers of strings, nodes and shared pointers that are built, changed, sorted, copied
// and thrown away. Prints sums that follow from its arguments alone.
//
//   stl [ROUNDS]        (50)
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "programs/pattern.h"

namespace polder::bench {
namespace {

using programs::Random;

std::string word(Random& random, std::size_t longest) {
  std::string text;
  const std::uint64_t length = 1 + random.below(longest);
  for (std::uint64_t i = 0; i < length; ++i) text += static_cast<char>('a' + random.below(26));
  return text;
}

std::uint64_t sum_of(const std::string& text) {
  std::uint64_t sum = 0;
  for (const char letter : text) sum = sum * 31 + static_cast<unsigned char>(letter);
  return sum;
}

// An index of words, as of a text: counted, then looked up by count.
std::uint64_t word_index(Random& random) {
  std::unordered_map<std::string, unsigned> counts;
  for (int i = 0; i < 30'000; ++i) ++counts[word(random, 4)];
  std::map<unsigned, std::vector<std::string>> by_count;
  for (const auto& [text, count] : counts) by_count[count].push_back(text);
  std::uint64_t sum = 0;
  for (auto& [count, texts] : by_count) {
    std::sort(texts.begin(), texts.end());
    for (const std::string& text : texts) sum = sum * 7 + sum_of(text) * count;
  }
  return sum;
}

// Lines that are collected, sorted and deduplicated.
std::uint64_t sorted_lines(Random& random) {
  std::vector<std::string> lines;
  for (int i = 0; i < 20'000; ++i) lines.push_back(word(random, 80));
  std::vector<std::string> copy = lines;
  std::sort(copy.begin(), copy.end());
  copy.erase(std::unique(copy.begin(), copy.end()), copy.end());
  const std::set<std::string> set(lines.begin(), lines.end());
  if (!std::equal(copy.begin(), copy.end(), set.begin(), set.end())) std::exit(1);
  std::uint64_t sum = 0;
  for (const std::string& line : copy) sum = sum * 3 + sum_of(line);
  return sum;
}

struct Node {
  std::uint64_t key = 0;
  std::shared_ptr<Node> left;
  std::shared_ptr<Node> right;
};

// A persistent tree: each insertion copies the path to the root, and old versions are dropped.
std::shared_ptr<Node> insert(const std::shared_ptr<Node>& node, std::uint64_t key) {
  if (!node) return std::make_shared<Node>(Node{key, nullptr, nullptr});
  auto copy = std::make_shared<Node>(*node);
  if (key < copy->key) {
    copy->left = insert(copy->left, key);
  } else {
    copy->right = insert(copy->right, key);
  }
  return copy;
}

std::uint64_t sum_tree(const std::shared_ptr<Node>& node) {
  return node ? sum_tree(node->left) * 5 + node->key + sum_tree(node->right) : 0;
}

std::uint64_t versions(Random& random) {
  std::deque<std::shared_ptr<Node>> history(1);
  for (int i = 0; i < 8000; ++i) {
    history.push_back(insert(history.back(), random.next()));
    if (history.size() > 50) history.pop_front();
  }
  return sum_tree(history.back());
}

// A simulation: events in a heap, their notes in lists that are spliced.
std::uint64_t events(Random& random) {
  using Event = std::pair<std::uint64_t, std::list<std::uint64_t>*>;
  const auto later = [](const Event& left, const Event& right) { return left.first > right.first; };
  std::priority_queue<Event, std::vector<Event>, decltype(later)> queue(later);
  std::vector<std::unique_ptr<std::list<std::uint64_t>>> lists;
  for (int i = 0; i < 500; ++i) lists.push_back(std::make_unique<std::list<std::uint64_t>>());
  for (std::uint64_t i = 0; i < 5000; ++i) queue.emplace(random.below(1000), lists[random.below(lists.size())].get());
  std::uint64_t sum = 0;
  for (int i = 0; i < 60'000; ++i) {
    const auto [time, list] = queue.top();
    queue.pop();
    list->push_back(time);
    if (list->size() > 100) {
      list->pop_front();
      std::list<std::uint64_t>& other = *lists[random.below(lists.size())];
      if (&other != list) list->splice(list->begin(), other);
    }
    if (list->size() > 1000) {
      for (const std::uint64_t note : *list) sum = sum * 3 + note;
      list->clear();
    }
    queue.emplace(time + 1 + random.below(1000), lists[random.below(lists.size())].get());
  }
  return sum;
}

}  // namespace
}  // namespace polder::bench

int main(int argument_count, char** arguments) {
  using namespace polder::bench;
  const long rounds = argument_count > 1 ? std::atol(arguments[1]) : 50;
  Random random(3);
  std::uint64_t sums[4]{};
  for (long round = 0; round < rounds; ++round) {
    sums[0] += word_index(random);
    sums[1] += sorted_lines(random);
    sums[2] += versions(random);
    sums[3] += events(random);
  }
  for (const std::uint64_t sum : sums) std::printf("%016llx\n", static_cast<unsigned long long>(sum));
  return rounds > 0 ? 0 : 2;
}
