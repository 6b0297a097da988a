// Where the library finds its configuration before the C library is ready.
#pragma once

namespace polder::runtime {

// The value of POLDER_CONF as the process was started with it, or null. Usable from the first malloc of the dynamic
// linker on: neither allocates nor needs any constructor to have run. Null in programs that gained privileges by exec
// (AT_SECURE), whose environment is not to be trusted. The text belongs to the process's initial stack, where the program
// may overwrite it later.
const char* find_configuration();

}  // namespace polder::runtime
