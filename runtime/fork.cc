#include "runtime/fork.h"

#include <cstddef>
#include <cstdio>

#include "base/check.h"
#include "runtime/instance.h"

// glibc's, exported for those who write streams of their own (libio/iolibio.h, libio/libioP.h).
extern "C" {
void _IO_list_lock(void);
void _IO_list_unlock(void);
void _IO_list_resetlock(void);
void* _IO_iter_begin(void);
void* _IO_iter_end(void);
void* _IO_iter_next(void* iterator);
FILE* _IO_iter_file(void* iterator);

// What pthread_atfork calls. Without a shared object to belong to, the handlers outlive every destructor.
int __register_atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void), void* shared_object);
}

namespace polder::runtime {
namespace {

void touch(const void* address) { static_cast<void>(*static_cast<const volatile char*>(address)); }

// Precondition: the list lock is held.
void make_streams_resident() {
  for (void* iterator = _IO_iter_begin(); iterator != _IO_iter_end(); iterator = _IO_iter_next(iterator)) {
    const FILE* const stream = _IO_iter_file(iterator);
    touch(stream);
    touch(reinterpret_cast<const char*>(stream + 1) - 1);
    if (stream->_lock == nullptr) continue;
    constexpr std::size_t kLockSize = 16;  // _IO_lock_t: lock, count, owner
    touch(stream->_lock);
    touch(reinterpret_cast<const char*>(stream->_lock) + kLockSize - 1);
  }
}

}  // namespace

// glibc takes the list lock too, but after the prepare handlers: in that order a thread that flushes all streams and
// allocates would wait for us while we wait for it. The lock is recursive. The first round over the streams may wait for
// memory to be evicted; the second, which may not, then finds next to nothing missing.
void before_fork() {
  _IO_list_lock();
  make_streams_resident();
  running_manager().fork_prepare();
  make_streams_resident();
}

void after_fork_in_parent() {
  running_manager().fork_parent();
  _IO_list_unlock();
}

void after_fork_in_child() {
  running_manager().fork_child();
  _IO_list_resetlock();
}

void install_fork_handlers() {
  [[maybe_unused]] const int error = __register_atfork(before_fork, after_fork_in_parent, after_fork_in_child, nullptr);
  POLDER_CHECK(error == 0, "no room for fork handlers", error);
}

}  // namespace polder::runtime
