// What a fault costs the thread that takes it, by where the page was: untouched, staged, stored; beside the kernel's first
// touch of anonymous memory and a direct read of a page from the same disk. On Google Benchmark, with each touch timed by
// itself: the counters p50_us and p99_us are over the touches of a repetition.
//
// The manager is part of the program: the page table says which pages are in which state. Pages are picked at random, so
// none is part of a stream; one thread faults, and the pager is asleep when it does. Also: the first touch of 1 GiB under a
// limit that is not reached.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "manager/manager.h"
#include "os/thread.h"

namespace polder {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kLimit = 64 * kMiB;
constexpr std::size_t kData = 256 * kMiB;
constexpr std::size_t kPages = kData / kPageSize;
constexpr int kTouches = 4000;  // of a repetition

[[noreturn]] void fail(const char* what) {
  std::perror(what);
  std::exit(1);
}

class Touches {
 public:
  explicit Touches(benchmark::State& state) : state_(state) { ns_.reserve(kTouches); }
  ~Touches() {
    if (ns_.empty()) return;
    std::sort(ns_.begin(), ns_.end());
    state_.counters["p50_us"] = at(50);
    state_.counters["p99_us"] = at(99);
  }
  Touches(const Touches&) = delete;
  Touches& operator=(const Touches&) = delete;

  template <typename Touch>
  void time(Touch touch) {
    const std::uint64_t begin = os::monotonic_ns();
    touch();
    ns_.push_back(os::monotonic_ns() - begin);
    state_.SetIterationTime(static_cast<double>(ns_.back()) * 1e-9);
  }

 private:
  double at(std::size_t percent) const { return static_cast<double>(ns_[(ns_.size() - 1) * percent / 100]) * 1e-3; }

  benchmark::State& state_;
  std::vector<std::uint64_t> ns_;
};

void touch(const char* address) { benchmark::DoNotOptimize(*static_cast<const volatile char*>(address)); }

void fill_at_random(char* page, std::mt19937_64& random) {
  for (std::size_t at = 0; at < kPageSize; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random();
    std::copy_n(reinterpret_cast<const char*>(&word), sizeof word, page + at);
  }
}

// Four times as much data as may be resident, of which no page is like another.
class Heaped {
 public:
  static Heaped& instance() {
    static Heaped& heaped = *new Heaped;  // served until the process ends
    return heaped;
  }

  char* data() { return data_; }
  PageState state(std::size_t page) { return manager_.pager().table().load(first() + PageCount{page}).state(); }
  // A page in that state, from a place that is picked at random; kPages when there is none.
  std::size_t find(PageState wanted) {
    const std::size_t start = random_() % kPages;
    for (std::size_t i = 0; i < kPages; ++i) {
      const std::size_t page = (start + i) % kPages;
      if (state(page) == wanted) return page;
    }
    return kPages;
  }
  // Makes others leave.
  void write(unsigned pages) {
    for (unsigned i = 0; i < pages; ++i) data_[random_() % kPages * kPageSize] ^= 1;
  }
  char* allocate() { return static_cast<char*>(manager_.heap().allocate(cache_, kData)); }
  // So that all of its pages are untouched.
  void free(char* run) {
    manager_.heap().free(cache_, run);
    manager_.heap().trim(cache_);
  }

 private:
  Heaped() : manager_(options()) {
    manager_.allow_threads();
    manager_.thread_begins();
    cache_ = manager_.heap().create_cache();
    data_ = allocate();
    if (data_ == nullptr) {
      std::fputs("faults: this machine does not allow paging; `polder doctor` says why\n", stderr);
      std::exit(77);
    }
    for (std::size_t page = 0; page < kPages; ++page) fill_at_random(data_ + page * kPageSize, random_);
  }
  static ManagerOptions options() {
    ManagerOptions options;
    options.memory_limit_bytes = kLimit;
    return options;
  }
  PageId first() { return manager_.arena().page_of(data_); }

  Manager manager_;
  ThreadCache* cache_;
  char* data_;
  std::mt19937_64 random_{1};
};

void of_pages_that_are(benchmark::State& state, PageState wanted) {
  // As many writes as there are pages: more than the memory holds, all of which may have become free before.
  constexpr unsigned kWritesPerTry = 16;
  constexpr unsigned kTries = kPages / kWritesPerTry;
  Heaped& heaped = Heaped::instance();
  Touches touches(state);
  for (auto _ : state) {
    std::size_t page = heaped.find(wanted);
    for (unsigned tries = 0; page == kPages && tries < kTries; ++tries) {
      heaped.write(kWritesPerTry);
      page = heaped.find(wanted);
    }
    if (page == kPages) return state.SkipWithError("no page is in that state");
    touches.time([&] { touch(heaped.data() + page * kPageSize); });
  }
}

void staged(benchmark::State& state) { of_pages_that_are(state, PageState::staged); }
void stored(benchmark::State& state) { of_pages_that_are(state, PageState::stored); }

// One of each folio: whoever runs through memory gets several pages with one fault.
template <typename Visit>
void for_pages_of_folios(benchmark::State& state, Visit visit) {
  std::vector<std::size_t> pages(kTouches);
  for (std::size_t i = 0; i < pages.size(); ++i) pages[i] = i * kPagesPerFolio;
  std::mt19937_64 random(2);
  std::shuffle(pages.begin(), pages.end(), random);
  std::size_t next = 0;
  for (auto _ : state) visit(pages[next++ % pages.size()]);
}
static_assert(kTouches * kPagesPerFolio <= kPages);

void untouched(benchmark::State& state) {
  Heaped& heaped = Heaped::instance();
  char* const run = heaped.allocate();
  if (run == nullptr) return state.SkipWithError("no memory");
  {
    Touches touches(state);
    for_pages_of_folios(state, [&](std::size_t page) { touches.time([&] { run[page * kPageSize] = 1; }); });
  }
  heaped.free(run);
}

void native(benchmark::State& state) {
  void* const memory = mmap(nullptr, kData, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  static_cast<void>(madvise(memory, kData, MADV_NOHUGEPAGE));
  auto* const run = static_cast<char*>(memory);
  {
    Touches touches(state);
    for_pages_of_folios(state, [&](std::size_t page) { touches.time([&] { run[page * kPageSize] = 1; }); });
  }
  munmap(memory, kData);
}

// A nameless file of the same size in the directory of the swap file.
int file_to_read() {
  const int file = open(ManagerOptions{}.swap_directory, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
  if (file < 0) fail("a file to read");
  std::mt19937_64 random(3);
  const auto piece = std::make_unique<char[]>(kMiB + kPageSize);
  char* const aligned = piece.get() + (kPageSize - reinterpret_cast<std::uintptr_t>(piece.get()) % kPageSize);
  for (std::size_t at = 0; at < kData; at += kMiB) {
    for (std::size_t page = 0; page < kMiB; page += kPageSize) fill_at_random(aligned + page, random);
    if (pwrite(file, aligned, kMiB, static_cast<off_t>(at)) != kMiB) fail("writing a file to read");
  }
  if (fdatasync(file) != 0) fail("writing a file to read");
  return file;
}

void raw_read(benchmark::State& state) {
  static const int file = file_to_read();
  alignas(kPageSize) static char page[kPageSize];
  std::mt19937_64 random(4);
  Touches touches(state);
  for (auto _ : state) {
    const auto offset = static_cast<off_t>(random() % kPages * kPageSize);
    touches.time([&] {
      if (pread(file, page, kPageSize, offset) != kPageSize) fail("reading the file");
    });
  }
}

// Every page of 1 GiB, of which four may be resident: what a limit costs that is not reached.
constexpr std::size_t kMuch = 1024 * kMiB;

void touch_all(char* run) {
  for (std::size_t at = 0; at < kMuch; at += kPageSize) run[at] = 1;
}

void gib_native(benchmark::State& state) {
  for (auto _ : state) {
    const std::uint64_t begin = os::monotonic_ns();
    void* const memory = mmap(nullptr, kMuch, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    touch_all(static_cast<char*>(memory));
    state.SetIterationTime(static_cast<double>(os::monotonic_ns() - begin) * 1e-9);
    munmap(memory, kMuch);
  }
}

void gib_limited(benchmark::State& state) {
  ManagerOptions options;
  options.memory_limit_bytes = 4 * kMuch;
  const auto manager = std::make_unique<Manager>(options);
  manager->allow_threads();
  ThreadCache* const cache = manager->heap().create_cache();
  for (auto _ : state) {
    const std::uint64_t begin = os::monotonic_ns();
    auto* const run = static_cast<char*>(manager->heap().allocate(cache, kMuch));
    if (run == nullptr) return state.SkipWithError("no memory");
    touch_all(run);
    state.SetIterationTime(static_cast<double>(os::monotonic_ns() - begin) * 1e-9);
    manager->heap().free(cache, run);
    manager->heap().trim(cache);
  }
  manager->heap().destroy_cache(cache);
}

BENCHMARK(native)->UseManualTime()->Iterations(kTouches);
BENCHMARK(untouched)->UseManualTime()->Iterations(kTouches);
BENCHMARK(staged)->UseManualTime()->Iterations(kTouches);
BENCHMARK(stored)->UseManualTime()->Iterations(kTouches);
BENCHMARK(raw_read)->UseManualTime()->Iterations(kTouches);
BENCHMARK(gib_native)->UseManualTime()->Iterations(3)->Unit(benchmark::kMillisecond);
BENCHMARK(gib_limited)->UseManualTime()->Iterations(3)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace polder

BENCHMARK_MAIN();
