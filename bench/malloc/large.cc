// Random replacement of large blocks, written to at regular places: every page of the large ones, every sixteenth of
// the very large ones, whose pages would otherwise be all that is measured.
#include "malloc/object.h"
#include "malloc/workload.h"

namespace polder::bench {
namespace {

constexpr std::size_t kPage = 4096;

class Block {
 public:
  Block() = default;
  Block(std::size_t size, std::size_t stride)
      : data_(static_cast<char*>(allocate(size))), size_(size), stride_(stride) {
    for (std::size_t at = stride_; at + sizeof(std::uint64_t) < size_; at += stride_)
      store_word(data_ + at, size_ + at);
  }

  void destroy() {
    if (data_ == nullptr) return;
    for (std::size_t at = stride_; at + sizeof(std::uint64_t) < size_; at += stride_) {
      if (load_word(data_ + at) != size_ + at) fail("a page of a block was changed by somebody else");
    }
    release(data_);
    data_ = nullptr;
  }

 private:
  char* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t stride_ = 0;
};

Result replace_blocks(const Parameters& parameters, std::size_t stride) {
  const SizeMix size(parameters.smallest, parameters.largest);
  const std::uint64_t operations = parameters.operations + 1;
  Random random(seed_of(parameters, 0));
  std::vector<Block> blocks(parameters.live);
  const Clock clock;
  for (std::uint64_t i = 0; i < operations; ++i) {
    Block& block = blocks[random.below(blocks.size())];
    block.destroy();
    block = Block(size(random), stride);
  }
  const Result result{operations, clock.seconds()};
  for (Block& block : blocks) block.destroy();
  return result;
}

}  // namespace

Result large_blocks(const Parameters& parameters) { return replace_blocks(parameters, kPage); }

Result very_large_blocks(const Parameters& parameters) { return replace_blocks(parameters, 16 * kPage); }

}  // namespace polder::bench
