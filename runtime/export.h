// Marks a definition that the library exports. runtime/libpolder.map lists the same symbols and keeps everything else in.
#pragma once

#define POLDER_EXPORT __attribute__((visibility("default")))
