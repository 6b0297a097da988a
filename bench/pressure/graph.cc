// Breadth-first search. Most edges lead to a vertex nearby, few to anywhere; they are what the words of a vertex say, so that
// checking its bytes checks its edges. Threads search the same graph, each from a vertex of its own. An operation takes a
// vertex from the queue, checks it and looks at its edges.
#include <algorithm>
#include <cstring>

#include "pressure/contents.h"
#include "pressure/workload.h"

namespace polder::bench {
namespace {

constexpr std::size_t kEdges = 8;
constexpr std::uint64_t kEdgesPerFarOne = 64;
constexpr std::uint64_t kNeighbourhood = 1024;  // vertices

struct Vertices {
  unsigned char** objects;
  std::uint64_t count;
  std::size_t size;

  // Which vertex a word of another leads to.
  std::uint64_t target(std::uint64_t from, std::uint64_t word) const {
    const std::uint64_t where = word >> 8;
    if (word % kEdgesPerFarOne == 0) return where % count;
    return (from + count - kNeighbourhood / 2 + where % kNeighbourhood) % count;
  }
};

class Searcher final : public Worker {
 public:
  Searcher(const Vertices& vertices, Random random)
      : vertices_(vertices),
        random_(random),
        queue_(static_cast<std::uint32_t*>(allocate(vertices.count * sizeof(std::uint32_t)))),
        visited_(static_cast<std::uint64_t*>(allocate(visited_bytes()))) {
    begin();
  }

  Progress operate() override {
    if (head_ == tail_) begin();
    PageRecord::touch(queue_ + head_, sizeof queue_[0]);
    const std::uint64_t vertex = queue_[head_++];
    PageRecord::touch(vertices_.objects + vertex, sizeof vertices_.objects[0]);
    const unsigned char* const object = vertices_.objects[vertex];
    check_contents(object, 0, vertices_.size, vertex, 0);
    for (std::size_t edge = 0; edge < kEdges; ++edge) {
      std::uint64_t word;
      std::memcpy(&word, object + edge * sizeof word, sizeof word);
      visit(vertices_.target(vertex, word));
    }
    return Progress::more;
  }

 private:
  std::size_t visited_bytes() const { return (vertices_.count / 64 + 1) * sizeof(std::uint64_t); }

  void begin() {
    std::memset(visited_, 0, visited_bytes());
    head_ = tail_ = 0;
    visit(random_.below(vertices_.count));
  }
  void visit(std::uint64_t vertex) {
    const std::uint64_t bit = std::uint64_t{1} << (vertex % 64);
    PageRecord::touch(visited_ + vertex / 64, sizeof visited_[0]);
    if ((visited_[vertex / 64] & bit) != 0) return;
    visited_[vertex / 64] |= bit;
    PageRecord::touch(queue_ + tail_, sizeof queue_[0]);
    queue_[tail_++] = static_cast<std::uint32_t>(vertex);
  }

  const Vertices& vertices_;
  Random random_;
  std::uint32_t* queue_;  // each vertex comes in once
  std::uint64_t* visited_;
  std::uint64_t head_ = 0;
  std::uint64_t tail_ = 0;
};

class Graph final : public Workload {
 public:
  explicit Graph(const Settings& settings) : settings_(settings) {
    // Of each thread: the queue, and a bit.
    const std::uint64_t of_vertex =
        settings.object_size + sizeof(unsigned char*) + settings.threads * (sizeof(std::uint32_t) + 1);
    const std::uint64_t count = std::min<std::uint64_t>(settings.bytes / of_vertex, UINT32_MAX);
    if (count < kNeighbourhood) fail("too little data for a graph");
    vertices_ = {static_cast<unsigned char**>(allocate(count * sizeof(unsigned char*))), count, settings.object_size};
    for (std::uint64_t i = 0; i < count; ++i) {
      vertices_.objects[i] = static_cast<unsigned char*>(allocate(settings.object_size));
      write_contents(vertices_.objects[i], 0, settings.object_size, i, 0);
    }
  }

  std::unique_ptr<Worker> worker(unsigned index) override {
    return std::make_unique<Searcher>(vertices_, random_for(settings_, index));
  }

 private:
  Settings settings_;
  Vertices vertices_{};
};

}  // namespace

std::unique_ptr<Workload> make_graph(const Settings& settings) { return std::make_unique<Graph>(settings); }

}  // namespace polder::bench
