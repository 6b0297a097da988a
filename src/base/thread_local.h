// How thread-local variables are reached. In the libraries that replace malloc they lie in static thread-local storage: an
// access must never allocate. The library for dlopen may not claim any of that, the C library has little left by then;
// its build defines the model as "global-dynamic", under which the first access of a thread allocates from libc.
#pragma once

#ifndef POLDER_TLS_MODEL
#define POLDER_TLS_MODEL "initial-exec"
#endif

#define POLDER_THREAD_LOCAL [[gnu::tls_model(POLDER_TLS_MODEL)]]
