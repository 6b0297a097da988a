// A module with a thread-local variable, for programs that load it as they run.
extern "C" __attribute__((visibility("default"))) int next_of_this_thread() {
  static thread_local int value = 41;
  return ++value;
}
