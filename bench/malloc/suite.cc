// The allocator benchmarks: one run of one workload on the malloc that the program has, by preload or by itself.
//
//   malloc_suite WORKLOAD [--scale F] [--threads N] [--seed N] [--trace FILE]
//   malloc_suite --list | --self-check | --write-trace FILE [--scale F] [--seed N]
//
// A run prints one line of JSON. Scale 1 takes one to three seconds under jemalloc on two cores; other scales multiply
// the operations, those below 0.1 also the live objects (by ten times as much). Status 1: memory was not as it had been
// left, or there was none; 2: usage.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "malloc/object.h"
#include "malloc/trace_format.h"
#include "malloc/workload.h"

namespace polder::bench {

void fail(const char* what) {
  std::fprintf(stderr, "malloc_suite: %s\n", what);
  std::_Exit(1);
}

namespace {

constexpr std::size_t kKiB = 1024;
constexpr std::size_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kTraceEvents = 4'000'000;

struct Workload {
  const char* name;
  Result (*run)(const Parameters&);
  Parameters defaults;
  const char* measures;
};

// In the literature, written anew after the descriptions there: larson and threadtest with its two relatives from Hoard
// (Larson, Krishnan: Memory Allocation for Long-Running Server Applications, ISMM 1998; Berger, McKinley, Blumofe,
// Wilson: Hoard, ASPLOS 2000), xmalloc (Lever, Boreham: malloc() Performance in a Multithreaded Linux Environment,
// USENIX 2000), sh6 and sh8 (the two benchmarks of MicroQuill's SmartHeap), mstress (the stress test of mimalloc:
// Leijen, Zorn, de Moura, APLAS 2019). The others are loops that allocators are commonly compared by.
constexpr Workload kWorkloads[]{
    {"larson",
     larson,
     {.threads = 4, .operations = 80'000'000, .live = 8000, .smallest = 8, .largest = 512},
     "server threads that hand their objects to their successors"},
    {"threadtest",
     threadtest,
     {.threads = 2, .operations = 80'000'000, .live = 100'000, .smallest = 64},
     "threads that allocate and free batches of their own"},
    {"xmalloc",
     xmalloc,
     {.threads = 2, .operations = 36'000'000, .live = 16'384, .smallest = 16, .largest = 512},
     "one thread allocates, another frees"},
    {"cache_scratch",
     cache_scratch,
     {.threads = 2, .operations = 70'000, .smallest = 8},
     "passive false sharing: objects that came from one thread"},
    {"cache_thrash",
     cache_thrash,
     {.threads = 2, .operations = 70'000, .smallest = 8},
     "active false sharing: objects of several threads"},
    {"sh6",
     sh6,
     {.threads = 1, .operations = 40'000'000, .live = 20'000, .smallest = 8, .largest = 1024},
     "small objects of mixed sizes, freed youngest and oldest first"},
    {"sh8",
     sh8,
     {.threads = 8, .operations = 100'000'000, .live = 20'000, .smallest = 8, .largest = 1024},
     "the same from eight threads, a quarter freed by another one"},
    {"mstress",
     mstress,
     {.threads = 4, .operations = 12'000'000, .live = 40'000, .smallest = 16, .largest = 512},
     "threads that come and go, objects of all ages that change hands"},
    {"replace_1k",
     replace,
     {.threads = 1, .operations = 50'000'000, .live = 1000, .smallest = 16, .largest = 1024},
     "random replacement among a thousand objects"},
    {"replace_100k",
     replace,
     {.threads = 1, .operations = 20'000'000, .live = 100'000, .smallest = 16, .largest = 1024},
     "random replacement among a hundred thousand objects"},
    {"replace_1m",
     replace,
     {.threads = 1, .operations = 10'000'000, .live = 1'000'000, .smallest = 16, .largest = 1024},
     "random replacement among a million objects"},
    {"replace_threads",
     replace,
     {.threads = 8, .operations = 40'000'000, .live = 80'000, .smallest = 16, .largest = 4096},
     "random replacement in eight threads"},
    {"realloc_array",
     realloc_array,
     {.operations = 10, .smallest = 4 * kKiB, .largest = 256 * kMiB},
     "an array that doubles to 256 MiB and halves again"},
    {"realloc_vectors",
     realloc_vectors,
     {.operations = 4'000'000, .live = 5000, .smallest = 64, .largest = 128 * kKiB},
     "five thousand vectors that grow by half"},
    {"large",
     large_blocks,
     {.operations = 6000, .live = 32, .smallest = 64 * kKiB, .largest = 8 * kMiB},
     "replacement of blocks of 64 KiB to 8 MiB, every page written"},
    {"very_large",
     very_large_blocks,
     {.operations = 700, .live = 4, .smallest = 8 * kMiB, .largest = 256 * kMiB},
     "replacement of blocks of 8 to 256 MiB, every sixteenth page written"},
    {"thread_start", thread_start, {.operations = 50'000, .smallest = 64}, "threads that start, allocate once and end"},
    {"aligned",
     aligned,
     {.threads = 1, .operations = 30'000'000, .live = 10'000, .smallest = 16, .largest = 4096},
     "posix_memalign and aligned_alloc, 16 bytes to a page"},
    {"calloc",
     zeroed,
     {.threads = 1, .operations = 2'000'000, .live = 2000, .smallest = 16, .largest = 32 * kKiB},
     "zeroed objects that were dirty before"},
    {"batch",
     batch,
     {.threads = 1, .operations = 60'000'000, .live = 1000, .smallest = 64},
     "a thousand objects allocated, then freed in order"},
    {"exchange",
     exchange,
     {.threads = 2, .operations = 100'000'000, .live = 2000, .smallest = 16, .largest = 256},
     "two threads that free each other's objects"},
    {"trace", trace, {.threads = 1, .operations = 40'000'000}, "a trace of a program's mallocs, reallocs and frees"},
};

[[noreturn]] void usage(const char* what) {
  std::fprintf(stderr,
               "malloc_suite: %s\nusage: malloc_suite WORKLOAD [--scale F] [--threads N] [--seed N] [--trace FILE]\n"
               "       malloc_suite --list | --self-check | --write-trace FILE [--scale F] [--seed N]\n",
               what);
  std::exit(2);
}

// Damage to any byte of a mark must be seen, and resizing must carry the mark along.
int self_check() {
  for (const std::size_t size : {8UL, 9UL, 15UL, 16UL, 17UL, 100UL, 4096UL, 1UL << 20}) {
    auto* object = static_cast<char*>(allocate(size));
    if (marked_size(object) != size) fail("self-check: a fresh mark is not right");
    for (std::size_t at = 0; at < size; at = at == kSmallestObject - 1 ? std::max(size - 1, kSmallestObject) : at + 1) {
      for (int bit = 0; bit < 8; ++bit) {
        object[at] = static_cast<char>(object[at] ^ (1 << bit));
        if (marked_size(object) == size) fail("self-check: a damaged mark was not noticed");
        object[at] = static_cast<char>(object[at] ^ (1 << bit));
      }
    }
    object = static_cast<char*>(resize(object, 3 * size));
    if (marked_size(object) != 3 * size) fail("self-check: a mark was lost by realloc");
    store_word(object, ~load_word(object));
    if (marked_size(object) != 0) fail("self-check: a released object passes for a live one");
    std::free(object);
  }
  std::puts("self-check: ok");
  return 0;
}

int write_trace(const char* path, double scale, std::uint64_t seed) {
  const int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) fail("cannot create the trace");
  write_synthetic_trace(descriptor, static_cast<std::uint64_t>(kTraceEvents * scale) + 1, seed);
  if (close(descriptor) != 0) fail("cannot write the trace");
  return 0;
}

int run(const Workload& workload, double scale, const Parameters& given) {
  Parameters parameters = workload.defaults;
  parameters.operations = static_cast<std::uint64_t>(static_cast<double>(parameters.operations) * scale);
  if (given.threads != 0) parameters.threads = given.threads;
  const double live = std::min(1.0, scale * 10) * static_cast<double>(parameters.live);
  // Every thread needs something to work on.
  parameters.live = std::max<std::size_t>(static_cast<std::size_t>(live), std::size_t{4} * parameters.threads);
  parameters.seed = given.seed;
  parameters.trace = given.trace;
  const Result result = workload.run(parameters);
  std::printf(
      "{\"workload\": \"%s\", \"threads\": %u, \"operations\": %llu, \"seconds\": %.6f, \"ns_per_operation\": %.3f}\n",
      workload.name, parameters.threads, static_cast<unsigned long long>(result.operations), result.seconds,
      result.seconds * 1e9 / static_cast<double>(result.operations));
  return std::fflush(stdout) == 0 ? 0 : 1;
}

double number(const char* text) {
  char* end = nullptr;
  const double value = std::strtod(text, &end);
  if (end == text || *end != '\0' || !(value >= 0 && value <= 1e12)) usage("not a number");
  return value;
}

int main(int argument_count, char** arguments) {
  const Workload* workload = nullptr;
  const char* trace_to_write = nullptr;
  double scale = 1;
  Parameters given{.threads = 0};
  for (int i = 1; i < argument_count; ++i) {
    const std::string_view word = arguments[i];
    if (word == "--list") {
      for (const Workload& each : kWorkloads) std::printf("%s\t%s\n", each.name, each.measures);
      return 0;
    }
    if (word == "--self-check") return self_check();
    if (!word.starts_with("--")) {
      const auto* const found = std::find_if(std::begin(kWorkloads), std::end(kWorkloads),
                                             [&](const Workload& each) { return word == each.name; });
      if (found == std::end(kWorkloads) || workload != nullptr) usage("one workload, of those that --list names");
      workload = found;
      continue;
    }
    if (i + 1 == argument_count) usage("an option without its value, or an unknown one");
    const char* const value = arguments[++i];
    if (word == "--scale") {
      scale = number(value);
    } else if (word == "--threads") {
      given.threads = static_cast<unsigned>(std::clamp(number(value), 1.0, 1024.0));
    } else if (word == "--seed") {
      given.seed = static_cast<std::uint64_t>(number(value));
    } else if (word == "--trace") {
      given.trace = value;
    } else if (word == "--write-trace") {
      trace_to_write = value;
    } else {
      usage("an unknown option");
    }
  }
  if (trace_to_write != nullptr) return write_trace(trace_to_write, scale, given.seed);
  if (workload == nullptr) usage("which workload?");
  return run(*workload, scale, given);
}

}  // namespace
}  // namespace polder::bench

int main(int argument_count, char** arguments) { return polder::bench::main(argument_count, arguments); }
