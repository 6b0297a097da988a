// The library's door to the kernel. System calls go straight through syscall(2), never through libc's wrappers: those are
// cancellation points, and some of them (mmap, madvise, …) are interposed by the preload library itself.
#pragma once

#include <unistd.h>
#include <cerrno>
#include <cstdint>
#include <type_traits>

#include "base/errno.h"

namespace polder::os {

namespace internal {

template <typename T>
inline long word(T value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<long>(value);
  } else if constexpr (std::is_null_pointer_v<T>) {
    return 0;
  } else {
    return static_cast<long>(value);
  }
}

}  // namespace internal

// The call's result, or a negated errno value; the thread's errno keeps its value.
template <typename... Arguments>
inline long system_call(long number, Arguments... arguments) {
  const int saved = errno;
  const long result = ::syscall(number, internal::word(arguments)...);
  if (result != -1) return result;
  const int code = errno;
  errno = saved;
  return -static_cast<long>(code);
}

// The same, repeated while a signal handler interrupts it.
template <typename... Arguments>
inline long uninterrupted_call(long number, Arguments... arguments) {
  long result;
  do {
    result = system_call(number, arguments...);
  } while (result == -EINTR);
  return result;
}

inline Errno as_errno(long result) { return Errno(result < 0 ? static_cast<int>(-result) : 0); }

// Keeps errno over calls into libc that may set it.
class ErrnoGuard {
 public:
  ErrnoGuard() : saved_(errno) {}
  ~ErrnoGuard() { errno = saved_; }
  ErrnoGuard(const ErrnoGuard&) = delete;
  ErrnoGuard& operator=(const ErrnoGuard&) = delete;

 private:
  const int saved_;
};

}  // namespace polder::os
