#include "runtime/fork.h"

#include <dlfcn.h>
#include <langinfo.h>
#include <link.h>
#include <locale.h>

#include <cstddef>
#include <cstdio>

#include "base/check.h"
#include "runtime/instance.h"
#include "runtime/thread_state.h"

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

// Descriptors of loaded objects that have thread-local variables and came by dlopen, so that they live in the heap. Used
// by one thread, while it forks.
class ThreadLocalModules {
 public:
  // Takes the dynamic linker's lock.
  void find() { dl_iterate_phdr(add, this); }

  void make_resident() const {
    for (unsigned i = 0; i < count_; ++i) {
      touch(descriptors_[i]);
      touch(descriptors_[i] + kDescriptorSize - 1);
    }
  }

 private:
  static constexpr unsigned kMost = 256;
  // struct link_map with the linker's private part: 1,192 bytes in glibc 2.36.
  static constexpr std::size_t kDescriptorSize = 1192;

  static int add(dl_phdr_info* info, std::size_t, void* self) {
    auto& modules = *static_cast<ThreadLocalModules*>(self);
    dl_find_object object;
    if (info->dlpi_tls_modid == 0 || info->dlpi_phdr == nullptr) return 0;
    // The headers lie in the object. Other ways to its descriptor take locks in another order.
    if (_dl_find_object(const_cast<ElfW(Phdr)*>(info->dlpi_phdr), &object) != 0) return 0;
    const char* const descriptor = reinterpret_cast<const char*>(object.dlfo_link_map);
    if (!arena_pointers.contains(descriptor)) return 0;
    modules.descriptors_[modules.count_++] = descriptor;
    return modules.count_ == kMost ? 1 : 0;
  }

  const char* descriptors_[kMost];
  unsigned count_ = 0;
};

// Where the global locale keeps its character tables: the first and the last that __ctype_init looks up.
void make_locale_resident() {
  const locale_t own = uselocale(LC_GLOBAL_LOCALE);
  static_cast<void>(nl_langinfo(_NL_CTYPE_CLASS));
  static_cast<void>(nl_langinfo(_NL_CTYPE_TOLOWER));
  uselocale(own);
}

// What glibc reads when it starts a thread, since a child's first one is its pager.
void make_thread_start_resident(const ThreadLocalModules& modules) {
  make_locale_resident();
  modules.make_resident();
}

}  // namespace

// glibc takes the list lock too, but after the prepare handlers: in that order a thread that flushes all streams and
// allocates would wait for us while we wait for it. The lock is recursive. The first round over the streams may wait for
// memory to be evicted; the second, which may not, then finds next to nothing missing.
void before_fork() {
  ThreadLocalModules modules;
  modules.find();
  _IO_list_lock();
  make_streams_resident();
  make_thread_start_resident(modules);
  running_manager().fork_prepare();
  make_streams_resident();
  make_thread_start_resident(modules);
}

void after_fork_in_parent() {
  running_manager().fork_parent();
  _IO_list_unlock();
}

void after_fork_in_child() {
  running_manager().fork_child(present_cache());
  _IO_list_resetlock();
}

void install_fork_handlers() {
  [[maybe_unused]] const int error = __register_atfork(before_fork, after_fork_in_parent, after_fork_in_child, nullptr);
  POLDER_CHECK(error == 0, "no room for fork handlers", error);
}

}  // namespace polder::runtime
