#include "pager/pager.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string_view>

#include "base/check.h"
#include "base/fatal.h"
#include "base/message.h"
#include "os/file.h"
#include "os/mapping.h"
#include "os/thread.h"

namespace polder {
namespace {

constexpr std::size_t kServiceStack = std::size_t{64} << 10;

// Pages that a forking thread may need before its child's pager runs.
constexpr PageCount kForkRoom{16};

// How long a wait for room lasts between two looks.
constexpr int kRoomWaitMs = 20;

// Concurrent reads: a 64th of the limit in buffers, between 4 and 64 of a folio each.
unsigned reads_for(PageCount limit) {
  return static_cast<unsigned>(std::clamp<std::uint64_t>(limit.value / 64 / kPagesPerFolio, 4, Filler::kMaxReads));
}

std::size_t folios_of(PageCount pages) { return pages.value / kPagesPerFolio; }
std::size_t blocks_of(PageCount pages) { return (pages.value + kPagesPerBlock - 1) / kPagesPerBlock; }

}  // namespace

std::size_t Pager::metadata_bytes(PageCount pages) {
  return MetadataArray<std::atomic<std::uint64_t>>::bytes_for(pages.value) +
         MetadataArray<Pageblocks::Block>::bytes_for(blocks_of(pages)) +
         MetadataArray<std::atomic<std::uint8_t>>::bytes_for(folios_of(pages)) +
         MetadataArray<AgeingNode>::bytes_for(folios_of(pages));
}

std::size_t Pager::metadata_bytes_per_chunk() {
  constexpr std::size_t kPages = Arena::kChunkSize / kPageSize;
  return kPages * sizeof(std::uint64_t) + kPages / kPagesPerBlock * sizeof(Pageblocks::Block) +
         kPages / kPagesPerFolio * (1 + sizeof(AgeingNode));
}

Pager::Pager(const PagerOptions& options, Arena& arena, MetadataSpace& space, MetadataPool& pool, Budget& budget,
             PageCount metadata_per_chunk, StatisticsSegment& statistics)
    : options_(options),
      budget_(budget),
      table_(MetadataArray<std::atomic<std::uint64_t>>(space, arena.pages().value)),
      blocks_(MetadataArray<Pageblocks::Block>(space, blocks_of(arena.pages()))),
      gate_flags_(space, folios_of(arena.pages())),
      ageing_nodes_(space, folios_of(arena.pages())),
      statistics_(&statistics),
      vm_{arena, table_, blocks_, budget, statistics_},
      thread_cpus_(pool),
      provider_(vm_, arena, gate_flags_, ageing_nodes_, *this, metadata_per_chunk),
      pool_(pool),
      owner_process_(os::process_id()) {}

Pager::~Pager() {
  if (armed()) service_->reclaimer.stop();
  while (running_.load() != 0) {
    wakeups_.kick_reclaimer();
    os::sleep_ms(1);
  }
  if (service_ != nullptr) std::destroy_at(service_);
}

bool Pager::is_resident(PageId page) const {
  return !blocks_.known(block_of(page)) || blocks_.mode(block_of(page)) != BlockMode::managed ||
         table_.load(page).state() == PageState::resident;
}

PageCount Pager::reserve() const {
  const PageCount min = budget_.watermarks().min;
  const std::uint32_t phase = phase_.load(std::memory_order_acquire);
  if (phase == kArmed || phase == kImpossible) return min;
  return min + Filler::memory_for(reads_for(budget_.limit())) + pages_up(MetadataPool::room_for(sizeof(PagingService)));
}

// --- pressure ---------------------------------------------------------------------------------------------------------

void Pager::relieve() {
  if (arm()) wakeups_.kick_reclaimer();
}

bool Pager::can_manage() { return budget_.limited() && arm(); }

Errno Pager::manage(BlockId first, BlockCount count) {
  relieve();
  return service_->requests.ask(first, count, wakeups_);
}

bool Pager::make_room(PageCount pages) {
  if (!budget_.limited()) return true;
  if (!threads_allowed_.load(std::memory_order_relaxed)) return false;
  std::uint64_t waited_since = 0;
  bool room = false;
  for (;;) {
    const std::uint32_t seen = wakeups_.room_sequence();
    // Others may take it before the caller does: it asks again then. To refuse is only for those who found nothing.
    room = budget_.free() >= pages + reserve();
    if (room) break;
    if (!arm()) break;
    if (service_->reclaimer.exhausted() || pages + budget_.watermarks().high > budget_.limit()) break;
    if (waited_since == 0) waited_since = os::monotonic_ns();
    service_->reclaimer.want(pages);
    wakeups_.wait_for_room(seen, kRoomWaitMs, [this] { wakeups_.kick_reclaimer(); });
  }
  if (waited_since != 0) count(statistics_->allocation.throttled_ns, os::monotonic_ns() - waited_since);
  return room;
}

Errno Pager::shrink_to_limit() {
  const std::uint64_t start = os::monotonic_ns();
  constexpr std::uint64_t kPatienceNs = 30'000'000'000;
  while (budget_.excess().value != 0) {
    if (!arm()) return Errno(ETIMEDOUT);
    const std::uint32_t seen = wakeups_.room_sequence();
    if (service_->reclaimer.exhausted() || os::monotonic_ns() - start > kPatienceNs) return Errno(ETIMEDOUT);
    wakeups_.wait_for_room(seen, kRoomWaitMs, [this] { wakeups_.kick_reclaimer(); });
  }
  return kOk;
}

Errno Pager::begin_to_fit() {
  if (budget_.excess().value == 0) return kOk;
  if (arm()) {
    if (service_->reclaimer.exhausted()) return Errno(ETIMEDOUT);
    wakeups_.kick_reclaimer();
  } else if (phase_.load(std::memory_order_acquire) == kImpossible) {
    return Errno(EOPNOTSUPP);
  }
  return Errno(EAGAIN);
}

// --- life -------------------------------------------------------------------------------------------------------------

// True when the service threads run, starting them if need be.
bool Pager::arm() {
  const std::uint32_t phase = phase_.load(std::memory_order_acquire);
  if (phase == kArmed) return true;
  if (phase == kImpossible || !threads_allowed_.load(std::memory_order_relaxed)) return false;
  if (os::process_id() != owner_process_) return false;
  was_needed_.store(true, std::memory_order_relaxed);
  std::uint32_t expected = kIdle;
  if (phase_.compare_exchange_strong(expected, kArming)) {
    const bool started = start_service_threads();
    if (!started) {
      say(Message()
              .text("this machine does not allow paging here: ")
              .error(static_cast<int>(service_error_.load()) - 2)
              .text("; the limit stays, allocations beyond it fail (see `polder doctor`)"));
    }
    publish_start(started);
    phase_.store(started ? kArmed : kImpossible, std::memory_order_release);
    os::futex_wake_all(phase_);
  }
  while (phase_.load(std::memory_order_acquire) == kArming) os::futex_wait(phase_, kArming, 100);
  return phase_.load(std::memory_order_acquire) == kArmed;
}

void Pager::publish_start(bool started) {
  StatisticsSegment::Setup& setup = statistics_->setup;
  const StatisticsTier tier = started ? StatisticsTier::full : StatisticsTier::allocator_only;
  setup.tier.store(static_cast<std::uint64_t>(tier), std::memory_order_relaxed);
  setup.armed.store(started ? 1 : 0, std::memory_order_relaxed);
}

// On the service thread that owns the engine.
void Pager::publish_backend() {
  const bool workers = std::string_view(service_->fault_loop.backend_name()) == "workers";
  const StatisticsBackend backend = workers ? StatisticsBackend::workers : StatisticsBackend::uring;
  statistics_->setup.backend.store(static_cast<std::uint64_t>(backend), std::memory_order_relaxed);
}

bool Pager::start_service_threads() {
  service_error_.store(0);
  if (service_ == nullptr) {
    static_assert(alignof(PagingService) <= MetadataPool::kAlignment);
    void* const memory = pool_.allocate(sizeof(PagingService));
    if (memory == nullptr) {
      announce(Errno(ENOMEM));
      return false;
    }
    service_ = new (memory) PagingService(vm_, gate_flags_, options_.policy, ageing_nodes_, wakeups_, thread_cpus_,
                                          heap_, cpus_, options_.attend);
  }
  options_.hooks.enter_unevictable();
  const Errno error = os::start_service_thread(fault_thread, this, "polder-pager", kServiceStack);
  options_.hooks.leave_unevictable();
  if (!error.ok()) {
    announce(error);
    return false;
  }
  while (service_error_.load() == 0) os::futex_wait(service_error_, 0, 100);
  return service_error_.load() == 1;
}

void Pager::announce(Errno error) {
  service_error_.store(error.ok() ? 1 : static_cast<std::uint32_t>(error.code()) + 2);
  os::futex_wake_all(service_error_);
}

// What a service thread of ours needs of the C library is allocated from unevictable memory for good: it never leaves.
void Pager::fault_thread(void* argument) {
  Pager& self = *static_cast<Pager*>(argument);
  self.options_.hooks.enter_unevictable();
  self.fault_thread_id_ = os::thread_id();
  self.running_.fetch_add(1);
  Errno error = self.set_up_service();
  if (error.ok()) {
    error = os::start_service_thread(reclaim_thread, &self, "polder-reclaim", kServiceStack);
  }
  if (!error.ok()) {
    self.running_.fetch_sub(1);
    self.announce(error);
    return;
  }
  // Without a guard faults are merely slower.
  self.running_.fetch_add(1);  // its own, before it could be missed
  if (!os::start_service_thread(guard_thread, &self, "polder-guard", kServiceStack).ok()) self.running_.fetch_sub(1);
  self.service_->fault_loop.run();
  self.service_->courtesy.stop();
  self.running_.fetch_sub(1);
}

void Pager::guard_thread(void* argument) {
  Pager& self = *static_cast<Pager*>(argument);
  self.options_.hooks.enter_unevictable();
  self.service_->courtesy.guard();
  self.running_.fetch_sub(1);
}

void Pager::reclaim_thread(void* argument) {
  Pager& self = *static_cast<Pager*>(argument);
  self.options_.hooks.enter_unevictable();
  self.running_.fetch_add(1);
  const Errno error = self.service_->reclaimer.prepare(self.options_.io);
  if (!error.ok()) self.service_->fault_loop.stop();
  self.announce(error);
  if (error.ok()) self.service_->reclaimer.run();
  self.running_.fetch_sub(1);
}

// On the fault thread: everything is opened in a descriptor table that the program neither sees nor closes.
Errno Pager::set_up_service() {
  int keep[Store::kMaxInherited];
  const unsigned keep_count = starting_in_child_ ? inherited_count_ : 0;
  std::copy_n(inherited_, keep_count, keep);
  std::sort(keep, keep + keep_count);
  Errno error = os::take_private_descriptor_table(keep, keep_count);
  if (!error.ok()) return error;
  error = service_->uffd.open();
  if (!error.ok()) return error;
  if (!service_->uffd.features().move) return Errno(EOPNOTSUPP);
  error = prepare_staging();
  if (!error.ok()) return error;
  error = service_->filler.prepare(reads_for(budget_.limit()));
  if (!error.ok()) return error;
  error = service_->evictor.prepare();
  if (!error.ok()) return error;
  error = service_->fault_loop.prepare(options_.io);
  if (!error.ok()) return error;
  publish_backend();
  error = service_->converter.prepare();
  if (!error.ok()) return error;
  if (starting_in_child_) return adopt_parents_pages();
  return service_->store.open({.swap_directory = options_.swap_directory, .swap_bytes = options_.swap_bytes});
}

Errno Pager::prepare_staging() {
  if (!starting_in_child_) {
    const Errno error = os::commit(service_->staging.area(), Staging::kAreaBytes);
    if (!error.ok()) return error;
    os::advise_huge_pages(service_->staging.area(), Staging::kAreaBytes, os::HugePages::never);
  }
  return service_->uffd.register_missing(service_->staging.area(), Staging::kAreaBytes);
}

Errno Pager::adopt_parents_pages() {
  service_->store.become_child(inherited_, inherited_count_);
  service_->store.begin_recount();
  budget_.charge_always(service_->staging.pages());
  return service_->converter.adopt_in_child();
}

// --- fork -------------------------------------------------------------------------------------------------------------

void Pager::fork_prepare() {
  count(statistics_->allocation.forks);
  // Nobody may arm while we fork: a child copied amid that would have managed memory and no pager.
  holds_arming_ = false;
  while (os::process_id() == owner_process_) {
    std::uint32_t seen = kIdle;
    if (phase_.compare_exchange_strong(seen, kArming)) {
      holds_arming_ = true;
      break;
    }
    if (seen != kArming) break;
    os::futex_wait(phase_, kArming, 100);
  }
  fork_served_ = armed() && os::process_id() == owner_process_;
  if (!fork_served_) return;
  make_room(kForkRoom);
  const ForkGate::Inheritance& inheritance = service_->forks.ask(wakeups_);
  service_->filler.favour(os::thread_id());
  inheritance_error_ = inheritance.error;
  inheritance_step_ = "holding its swap slots";
  inherited_count_ = 0;
  if (inheritance.error.ok()) copy_inheritance(inheritance);
}

void Pager::copy_inheritance(const ForkGate::Inheritance& inheritance) {
  for (unsigned i = 0; i < inheritance.count; ++i) {
    const Result<int> copy = os::copy_descriptor_from_thread(fault_thread_id_, inheritance.fds[i]);
    if (!copy.ok()) {
      inheritance_error_ = copy.error;
      inheritance_step_ = "handing on the swap file's descriptor";
      return;
    }
    inherited_[inherited_count_++] = copy.value;
  }
}

void Pager::hand_on_memory_locked() {
  if (!armed()) return;
  const Errno error = service_->converter.hand_on_managed_locked();
  if (error.ok() || !inheritance_error_.ok()) return;
  inheritance_step_ = "handing on its memory";
  inheritance_error_ = error;
}

void Pager::withhold_memory_locked() {
  if (armed()) service_->converter.withhold_managed_locked();
}

void Pager::fork_parent() {
  if (holds_arming_) {
    holds_arming_ = false;
    phase_.store(kIdle, std::memory_order_release);
    os::futex_wake_all(phase_);
  }
  if (!fork_served_) return;
  for (unsigned i = 0; i < inherited_count_; ++i) os::close(inherited_[i]);
  inherited_count_ = 0;
  service_->filler.favour(0);
  service_->forks.over(Store::ForkOutcome::forked);
}

void Pager::fork_child() {
  owner_process_ = os::process_id();
  thread_cpus_.reset_in_child();
  thread_cpus_.note(os::thread_id(), os::current_cpu_word());
  wakeups_.reset_in_child();
  if (service_ != nullptr) {
    service_->requests.reset_in_child();
    service_->forks.reset_in_child();
  }
  if (holds_arming_) {
    holds_arming_ = false;
    phase_.store(kIdle);
  }
  if (!fork_served_ && armed()) {
    // Its parent shared another process's memory (vfork), or was copied past all handlers, and had no pager to inherit.
    inheritance_step_ = "forking from a process without one";
    inheritance_error_ = Errno(EOPNOTSUPP);
  } else if (!fork_served_) {
    return;
  }
  if (!inheritance_error_.ok()) {
    os::bar_program();
    report_fork_without_pager(inheritance_step_, inheritance_error_.code());
  }

  running_.store(0);
  service_->evictor.reset_in_child();
  service_->courtesy.reset_in_child();
  service_->filler.reset_in_child();
  service_->fault_loop.reset_in_child();
  service_->converter.reset_in_child();
  service_->reclaimer.reset_in_child();
  (*service_->policy)
      .reset_in_child(FolioId{static_cast<std::uint32_t>(blocks_.known_blocks().value * kFoliosPerBlock)});
  std::construct_at(&service_->uffd);  // the descriptor was the parent's service threads'
  budget_.reset_in_child();
  service_->evictor.note_fork();

  starting_in_child_ = true;
  if (!start_service_threads()) {
    os::bar_program();
    report_fork_without_pager("starting its pager", static_cast<int>(service_error_.load()) - 2);
  }
  starting_in_child_ = false;
  publish_start(true);
  for (unsigned i = 0; i < inherited_count_; ++i) os::close(inherited_[i]);
  inherited_count_ = 0;
}

void Pager::begin_in_bare_child() {
  owner_process_ = os::process_id();
  if (armed() || service_error_.load() == 1) {
    os::bar_program();
    report_fork_without_pager("made while paging began", EAGAIN);
  }
  // Whoever was about to start the pager is not here, and what there is of it is of no use.
  std::uint32_t starting = kArming;
  phase_.compare_exchange_strong(starting, kImpossible);
}

}  // namespace polder
