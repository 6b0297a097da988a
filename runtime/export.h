// Marks a definition that the library exports. runtime/libpolder.map lists the same symbols and keeps everything else in.
#pragma once

#define POLDER_EXPORT __attribute__((visibility("default")))

// The same for operators new and delete, which a program may define itself. The dynamic linker then takes the program's;
// the static linker does so if ours are weak.
#if defined(POLDER_STATIC)
#define POLDER_REPLACEABLE __attribute__((visibility("default"), weak))
#else
#define POLDER_REPLACEABLE POLDER_EXPORT
#endif
