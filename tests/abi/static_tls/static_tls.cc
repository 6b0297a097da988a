// A shared object with thread-local storage that can only be static: room for it is limited once a program runs.
[[gnu::tls_model("initial-exec")]] thread_local char storage[256];

extern "C" char* static_tls() { return storage; }
