#include "runtime/environment.h"

#include <sys/auxv.h>
#include <unistd.h>

// The dynamic linker's: the initial stack as the kernel built it, argc at the bottom (ELF x86-64 psABI, section 3.4.1):
//
//   argc | argv[0] … argv[argc - 1] | null | envp[0] … | null | auxiliary vector
extern "C" void* __libc_stack_end;

namespace polder::runtime {
namespace {

constexpr const char* kVariable = "POLDER_CONF";
constexpr long kMostArguments = 1L << 24;  // more than MAX_ARG_STRINGS that fit a stack

char** initial_environment() {
  if (__libc_stack_end == nullptr) return environ;
  const long count = *static_cast<const long*>(__libc_stack_end);
  char** const arguments = static_cast<char**>(__libc_stack_end) + 1;
  if (count < 0 || count > kMostArguments || arguments[count] != nullptr) return environ;
  return arguments + count + 1;
}

// The text after "NAME=", or null when the entry is another variable's.
const char* value_in(const char* entry) {
  const char* name = kVariable;
  while (*name != '\0' && *name == *entry) ++name, ++entry;
  return *name == '\0' && *entry == '=' ? entry + 1 : nullptr;
}

}  // namespace

const char* find_configuration() {
  if (getauxval(AT_SECURE) != 0) return nullptr;
  char** const environment = initial_environment();
  if (environment == nullptr) return nullptr;
  for (char** entry = environment; *entry != nullptr; ++entry) {
    if (const char* const value = value_in(*entry); value != nullptr) return value;
  }
  return nullptr;
}

}  // namespace polder::runtime
