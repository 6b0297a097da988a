#include "heap/hardening.h"

#include <algorithm>
#include <cstdint>

#include "base/fatal.h"

namespace polder {

void seal(Backing& backing, Run run) {
  backing.discard(run);
  backing.purge(run);
  static_cast<void>(backing.guard(run));
}

void unseal(Backing& backing, Run run, const void* memory) {
  if (backing.unguard(run)) return;
  require_untouched(memory, bytes(run.pages));
  backing.purge(run);  // looking at it may have made it resident
}

void require_untouched(const void* object, std::size_t size) {
  const auto* const words = static_cast<const std::uint64_t*>(object);
  const std::uint64_t* const end = words + size / sizeof(std::uint64_t);
  if (std::any_of(words, end, [](std::uint64_t word) { return word != 0; })) report_written_after_free(object);
}

}  // namespace polder
