#include "pager/block_words.h"

namespace polder {

void write_words_locked(const VmParts& parts, BlockId block) {
  const BlockWords words = parts.blocks.words(block);
  if (words == BlockWords::own) return;
  PageWord word = PageWord::of(PageState::resident);
  if (words == BlockWords::all_fresh) word = word.with_fresh();
  for (std::uint32_t i = 0; i < kPagesPerBlock; ++i) parts.table.set_unshared(first_page(block) + PageCount{i}, word);
  // After the words: who reads one without the mutex looks here first.
  parts.blocks.set_words_locked(block, BlockWords::own);
  parts.blocks.add_described_locked(block, kPagesPerBlock);
  if (words == BlockWords::all_settled) parts.blocks.add_settled_locked(block, kPagesPerBlock);
}

}  // namespace polder
