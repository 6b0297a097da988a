#include "os/program_calls.h"

#include <sys/syscall.h>

#include "os/syscall.h"

namespace polder::os {

Errno pass_madvise(void* address, std::size_t size, int advice) {
  return as_errno(system_call(SYS_madvise, address, size, advice));
}

}  // namespace polder::os
