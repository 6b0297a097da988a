#include "store/page_hash.h"

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL  // the build says so too
#endif
#include <xxhash.h>

#include "base/units.h"

namespace polder {

PageHash hash_page(const void* page) {
  const XXH128_hash_t hash = XXH3_128bits(page, kPageSize);
  return {.low = hash.low64, .high = hash.high64};
}

}  // namespace polder
