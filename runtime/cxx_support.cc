// What compiled C++ expects from its runtime library, which this library does without.
#include "base/check.h"

// Where the slots of pure virtual functions lead; no object is ever used before or after its most derived class's life.
extern "C" [[noreturn]] void __cxa_pure_virtual() {
  POLDER_CHECK(false, "pure virtual function called");
  __builtin_unreachable();
}
