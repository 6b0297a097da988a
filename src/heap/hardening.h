// Whether a heap is hardened: slower, larger, and harder to abuse. What that means is in heap/heap.h.
#pragma once

#include <cstddef>

#include "vm/backing.h"

namespace polder {

enum class Hardening : unsigned char { off, on };

// Takes pages from the program for the time of their quarantine: touching them raises SIGSEGV, or where the kernel
// cannot do that, shows when they are unsealed. They cost no memory meanwhile. Called with no lock held.
void seal(Backing& backing, Run run);
// The pages are nobody's now. `memory` is where they are.
void unseal(Backing& backing, Run run, const void* memory);

// Ends the program with a report unless the object is what it was made when it was freed: all zeros. Its size is a
// multiple of 8.
void require_untouched(const void* object, std::size_t size);

}  // namespace polder
