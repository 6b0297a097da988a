// The outcome of an operation that the kernel may refuse: an errno value, zero for success. Nothing here reads or
// writes the thread's `errno`, which belongs to the program we run under.
#pragma once

#include <utility>

namespace polder {

class [[nodiscard]] Errno {
 public:
  constexpr Errno() = default;
  constexpr explicit Errno(int code) : code_(code) {}

  constexpr bool ok() const { return code_ == 0; }
  constexpr int code() const { return code_; }
  constexpr bool operator==(const Errno&) const = default;

 private:
  int code_ = 0;
};

inline constexpr Errno kOk{};

// A value, or the errno that stands in its place. `value` is meaningful only when `error.ok()`.
template <typename T>
struct [[nodiscard]] Result {
  T value{};
  Errno error;

  constexpr bool ok() const { return error.ok(); }
};

template <typename T>
constexpr Result<T> failure(int code) {
  return {T{}, Errno(code)};
}

template <typename T>
constexpr Result<T> success(T value) {
  return {std::move(value), kOk};
}

}  // namespace polder
