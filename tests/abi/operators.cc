// The twenty replaceable operators: alignment, pairing, exhaustion, the new-handler. Prints "ok" or what went wrong.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>

namespace {

constexpr std::size_t kTooMuch = PTRDIFF_MAX;
constexpr std::size_t kAlignment = 256;
constexpr std::align_val_t kAligned{kAlignment};

int failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("failed: %s\n", what);
  ++failures;
}

bool is_aligned(const void* pointer, std::size_t alignment) {
  return reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0;
}

void* checked(void* pointer, std::size_t size, std::size_t alignment, const char* what) {
  expect(pointer != nullptr, what);
  expect(is_aligned(pointer, alignment), what);
  std::memset(pointer, 0x5a, size);
  return pointer;
}

void test_pairs() {
  for (std::size_t size = 0; size < 100000; size = size * 9 / 8 + 1) {
    ::operator delete(checked(::operator new(size), size, 16, "new"));
    ::operator delete(checked(::operator new(size), size, 16, "new, sized delete"), size);
    ::operator delete(checked(::operator new(size, std::nothrow), size, 16, "new nothrow"), std::nothrow);
    ::operator delete[](checked(::operator new[](size), size, 16, "new[]"));
    ::operator delete[](checked(::operator new[](size), size, 16, "new[], sized delete[]"), size);
    ::operator delete[](checked(::operator new[](size, std::nothrow), size, 16, "new[] nothrow"), std::nothrow);
    ::operator delete(checked(::operator new(size, kAligned), size, kAlignment, "aligned new"), kAligned);
    ::operator delete(checked(::operator new(size, kAligned), size, kAlignment, "aligned new, sized"), size, kAligned);
    ::operator delete(checked(::operator new(size, kAligned, std::nothrow), size, kAlignment, "aligned nothrow"),
                      kAligned, std::nothrow);
    ::operator delete[](checked(::operator new[](size, kAligned), size, kAlignment, "aligned new[]"), kAligned);
    ::operator delete[](checked(::operator new[](size, kAligned), size, kAlignment, "aligned new[], sized"), size,
                        kAligned);
    ::operator delete[](checked(::operator new[](size, kAligned, std::nothrow), size, kAlignment, "aligned nothrow[]"),
                        kAligned, std::nothrow);
  }
  for (std::size_t alignment = 1; alignment <= (std::size_t{1} << 22); alignment *= 2) {
    void* const pointer = checked(::operator new (100, std::align_val_t{alignment}), 100, alignment, "alignments");
    ::operator delete (pointer, std::align_val_t{alignment});
  }
  ::operator delete(nullptr);
  ::operator delete[](nullptr);
  ::operator delete(nullptr, 10);
  ::operator delete(nullptr, kAligned);
}

template <typename Function>
bool throws_bad_alloc(Function&& function) {
  try {
    function();
  } catch (const std::bad_alloc&) {
    return true;
  }
  return false;
}

void test_exhaustion() {
  volatile std::size_t too_much = kTooMuch;
  expect(throws_bad_alloc([&] { ::operator delete(::operator new(too_much)); }), "new throws");
  expect(throws_bad_alloc([&] { ::operator delete[](::operator new[](too_much)); }), "new[] throws");
  expect(throws_bad_alloc([&] { ::operator delete(::operator new(too_much, kAligned), kAligned); }), "aligned throws");
  expect(throws_bad_alloc([&] { ::operator delete[](::operator new[](too_much, kAligned), kAligned); }),
         "aligned [] throws");
  expect(::operator new(too_much, std::nothrow) == nullptr, "nothrow gives null");
  expect(::operator new[](too_much, std::nothrow) == nullptr, "nothrow[] gives null");
  expect(::operator new(too_much, kAligned, std::nothrow) == nullptr, "aligned nothrow gives null");
  expect(::operator new[](too_much, kAligned, std::nothrow) == nullptr, "aligned nothrow[] gives null");
}

int handler_calls = 0;

void give_up_after_three() {
  if (++handler_calls == 3) std::set_new_handler(nullptr);
}

void throw_own() {
  ++handler_calls;
  throw std::bad_alloc();
}

void test_handler() {
  volatile std::size_t too_much = kTooMuch;
  std::set_new_handler(give_up_after_three);
  expect(throws_bad_alloc([&] { ::operator delete(::operator new(too_much)); }), "throws after the handler gave up");
  expect(handler_calls == 3, "the handler was called until it gave up");
  handler_calls = 0;
  std::set_new_handler(throw_own);
  expect(throws_bad_alloc([&] { ::operator delete(::operator new(too_much)); }), "what the handler throws passes");
  expect(::operator new(too_much, std::nothrow) == nullptr, "what the handler throws becomes null");
  expect(::operator new[](too_much, kAligned, std::nothrow) == nullptr, "what the handler throws becomes null []");
  expect(handler_calls == 3, "the handler was called by each");
  std::set_new_handler(nullptr);
}

}  // namespace

int main() {
  test_pairs();
  test_exhaustion();
  test_handler();
  if (failures == 0) std::printf("ok\n");
  return failures == 0 ? 0 : 1;
}
