// A program that replaces `operator new(size)` and `operator delete(pointer)` alone, with memory that free() must never
// see: arrays, nothrow and sized forms have to come through these two, whoever provides the rest.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace {

constexpr std::size_t kPrefix = 64;
int news = 0;
int deletes = 0;

}  // namespace

void* operator new(std::size_t size) {
  ++news;
  char* const memory = static_cast<char*>(std::malloc(size + kPrefix));
  if (memory == nullptr) throw std::bad_alloc();
  return memory + kPrefix;
}

void operator delete(void* pointer) noexcept {
  ++deletes;
  if (pointer != nullptr) std::free(static_cast<char*>(pointer) - kPrefix);
}

int main() {
  ::operator delete(::operator new(10));
  ::operator delete(::operator new(10), 10);
  ::operator delete(::operator new(10, std::nothrow), std::nothrow);
  ::operator delete[](::operator new[](10));
  ::operator delete[](::operator new[](10), 10);
  ::operator delete[](::operator new[](10, std::nothrow), std::nothrow);
  std::printf("%d %d\n", news, deletes);
  return news == 6 && deletes == 6 ? 0 : 1;
}
