// Checks in three tiers. All print file, line, the condition and their operands on standard error without allocating,
// and abort.
//
//   POLDER_CHECK(cond, "text", values…)   always on: the state that keeps other people's data
//   POLDER_DCHECK(cond, "text", values…)  debug presets: preconditions on hot paths
//   POLDER_VERIFY(cond, "text", values…)  verify preset: walks that cost more than the work they check
//
// Values are integers or pointers and follow the text as ` name=value` pairs: POLDER_CHECK(a < b, "order", a, b).
// The operands of a disabled check are compiled, never evaluated.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace polder::internal {

struct Operand {
  std::uint64_t value;
};

template <typename T>
constexpr Operand operand(T value) {
  if constexpr (std::is_pointer_v<T>) {
    return {reinterpret_cast<std::uintptr_t>(value)};
  } else {
    return {static_cast<std::uint64_t>(value)};
  }
}

[[noreturn]] void check_failed(const char* file, int line, const char* condition, const char* text, const char* names,
                               std::initializer_list<Operand> operands);

}  // namespace polder::internal

#define POLDER_INTERNAL_OPERANDS_0()
#define POLDER_INTERNAL_OPERANDS_1(a) ::polder::internal::operand(a)
#define POLDER_INTERNAL_OPERANDS_2(a, b) POLDER_INTERNAL_OPERANDS_1(a), ::polder::internal::operand(b)
#define POLDER_INTERNAL_OPERANDS_3(a, b, c) POLDER_INTERNAL_OPERANDS_2(a, b), ::polder::internal::operand(c)
#define POLDER_INTERNAL_OPERANDS_4(a, b, c, d) POLDER_INTERNAL_OPERANDS_3(a, b, c), ::polder::internal::operand(d)
#define POLDER_INTERNAL_PICK(_0, _1, _2, _3, _4, name, ...) name
#define POLDER_INTERNAL_OPERANDS(...)                                                                        \
  POLDER_INTERNAL_PICK(0 __VA_OPT__(, ) __VA_ARGS__, POLDER_INTERNAL_OPERANDS_4, POLDER_INTERNAL_OPERANDS_3, \
                       POLDER_INTERNAL_OPERANDS_2, POLDER_INTERNAL_OPERANDS_1, POLDER_INTERNAL_OPERANDS_0)   \
  (__VA_ARGS__)

#define POLDER_CHECK(condition, text, ...)                                                                             \
  (static_cast<bool>(condition) ? static_cast<void>(0)                                                                 \
                                : ::polder::internal::check_failed(__FILE__, __LINE__, #condition, text, #__VA_ARGS__, \
                                                                   {POLDER_INTERNAL_OPERANDS(__VA_ARGS__)}))

#if !defined(NDEBUG) || defined(POLDER_VERIFY_BUILD)
#define POLDER_DCHECK(...) POLDER_CHECK(__VA_ARGS__)
#else
#define POLDER_DCHECK(...) static_cast<void>(sizeof((POLDER_CHECK(__VA_ARGS__), 0)))
#endif

namespace polder {

#if defined(POLDER_VERIFY_BUILD)
#define POLDER_VERIFY(...) POLDER_CHECK(__VA_ARGS__)
inline constexpr bool kVerifyBuild = true;
#else
#define POLDER_VERIFY(...) static_cast<void>(sizeof((POLDER_CHECK(__VA_ARGS__), 0)))
inline constexpr bool kVerifyBuild = false;
#endif

}  // namespace polder
