// The process's one Manager: started by whoever needs memory first, which is the dynamic linker, long before any
// constructor; never destroyed, because threads allocate until the process ends.
//
// Starting makes system calls only through src/os, allocates nothing and waits for nobody. A configuration that cannot be
// read ends the process with a line and exit status 2 before the program starts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

#include "manager/manager.h"

namespace polder::runtime {

namespace internal {

struct ManagerStorage {
  alignas(Manager) unsigned char bytes[sizeof(Manager)];
};
extern constinit ManagerStorage manager_storage;

}  // namespace internal

// The heap's; contains nothing until the manager runs. Immutable afterwards.
extern constinit PointerKinds arena_pointers;

// Precondition: the manager runs, as it does once any memory was handed out.
inline Manager& running_manager() { return *std::launder(reinterpret_cast<Manager*>(internal::manager_storage.bytes)); }
bool manager_runs();

// The manager, started if need be. Any thread; a second one waits until the first has started it.
Manager& start_manager();

}  // namespace polder::runtime
