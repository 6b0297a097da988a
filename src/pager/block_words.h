// What stands in place of a block's words (vm/pageblocks.h), written into the page table.
#pragma once

#include "pager/parts.h"

namespace polder {

// For whoever reads or changes single words of a block that is not managed: makes them its own.
void write_words_locked(const VmParts& parts, BlockId block) POLDER_REQUIRES(parts.blocks.mutex());

}  // namespace polder
