// malloc and free as programs use them: pairs, batches, random replacement among many live objects, growing arrays, and
// the same from several threads. Runs on whatever malloc is preloaded; scripts/bench compares two of them.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <memory>

// Clang declares it only with -fsized-deallocation.
void operator delete(void* pointer, std::size_t size) noexcept;

namespace {

constexpr std::size_t kLive = 100'000;
constexpr std::size_t kBatch = 1000;

// splitmix64, as in the test programs.
struct Random {
  std::uint64_t state;

  std::uint64_t next() {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
};

void* allocate(std::size_t size) {
  void* pointer = std::malloc(size);
  benchmark::DoNotOptimize(pointer);
  *static_cast<volatile char*>(pointer) = 1;
  return pointer;
}

// 16 to 1024 bytes, as many of each power of two.
std::size_t mixed_size(std::uint64_t random) {
  const std::size_t low = std::size_t{16} << (random % 6);
  return low + (random >> 8) % low;
}

void pair(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) std::free(allocate(size));
}
BENCHMARK(pair)->RangeMultiplier(4)->Range(16, 4096);
BENCHMARK(pair)->Arg(64)->Threads(2)->Threads(4)->UseRealTime();

void batch(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  std::array<void*, kBatch> objects{};
  for (auto _ : state) {
    for (void*& object : objects) object = allocate(size);
    for (void* object : objects) std::free(object);
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(kBatch));
}
BENCHMARK(batch)->Arg(16)->Arg(64)->Arg(256)->Arg(1024)->Arg(4096);
BENCHMARK(batch)->Arg(64)->Threads(2)->Threads(4)->UseRealTime();

void batch_reversed(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  std::array<void*, kBatch> objects{};
  for (auto _ : state) {
    for (void*& object : objects) object = allocate(size);
    for (std::size_t i = kBatch; i > 0; --i) std::free(objects[i - 1]);
  }
}
BENCHMARK(batch_reversed)->Arg(64)->Arg(512);

void replace(benchmark::State& state) {
  Random random{static_cast<std::uint64_t>(state.thread_index()) + 1};
  const std::unique_ptr<void*[]> live(new void*[kLive]);
  for (std::size_t i = 0; i < kLive; ++i) live[i] = allocate(mixed_size(random.next()));
  for (auto _ : state) {
    const std::uint64_t pick = random.next();
    void*& object = live[static_cast<std::size_t>((pick >> 32) * kLive >> 32)];
    std::free(object);
    object = allocate(mixed_size(pick));
  }
  for (std::size_t i = 0; i < kLive; ++i) std::free(live[i]);
}
BENCHMARK(replace);
BENCHMARK(replace)->Threads(2)->Threads(4)->UseRealTime();

// An array that grows by half until it has `range` bytes.
void realloc_growth(benchmark::State& state) {
  const auto limit = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    std::size_t size = 16;
    void* array = allocate(size);
    while (size < limit) {
      size += size / 2;
      array = std::realloc(array, size);
      benchmark::DoNotOptimize(array);
      static_cast<volatile char*>(array)[size - 1] = 1;
    }
    std::free(array);
  }
}
BENCHMARK(realloc_growth)->Arg(4 << 10)->Arg(64 << 10)->Arg(1 << 20);

void zeroed(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    void* pointer = std::calloc(1, size);
    benchmark::DoNotOptimize(pointer);
    *static_cast<volatile char*>(pointer) = 1;
    std::free(pointer);
  }
}
BENCHMARK(zeroed)->Arg(64)->Arg(1024)->Arg(16 << 10)->Arg(128 << 10);

// new and delete with the size known, as containers do.
void sized_delete(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    void* pointer = ::operator new(size);
    benchmark::DoNotOptimize(pointer);
    *static_cast<volatile char*>(pointer) = 1;
    ::operator delete(pointer, size);
  }
}
BENCHMARK(sized_delete)->Arg(32)->Arg(256);

}  // namespace

BENCHMARK_MAIN();
