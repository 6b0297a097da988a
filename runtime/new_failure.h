// What operator new does without memory, in a library that does not link the C++ runtime: the program's own is found
// through weak references, or, where it was loaded later and privately, by asking the dynamic linker.
#pragma once

namespace polder::runtime {

using NewHandler = void (*)();

// The program's new-handler, or null when it has none or no C++ runtime.
NewHandler current_new_handler();

// Throws std::bad_alloc. Ends the program with a line where there is no C++ runtime to throw with.
[[noreturn]] void throw_bad_alloc();

}  // namespace polder::runtime
