// What the service threads work with. The pager makes it when paging is armed, so that a process that stays far from its
// limit has none of it in memory; only tests unmake it.
#pragma once

#include "os/userfaultfd.h"
#include "pager/block_requests.h"
#include "pager/converter.h"
#include "pager/courtesy.h"
#include "pager/evictor.h"
#include "pager/fault_loop.h"
#include "pager/filler.h"
#include "pager/folio_gate.h"
#include "pager/fork_gate.h"
#include "pager/parts.h"
#include "pager/policy/policies.h"
#include "pager/reclaimer.h"
#include "pager/staging.h"
#include "pager/thread_cpus.h"
#include "pager/wakeups.h"
#include "store/store.h"
#include "vm/metadata.h"

namespace polder {

struct PagingService {
  // `cpus` are those that the process was started with.
  PagingService(const VmParts& vm, MetadataArray<std::atomic<std::uint8_t>>& gate_flags, PolicyKind policy_kind,
                MetadataArray<AgeingNode>& ageing_nodes, Wakeups& wakeups, ThreadCpus& thread_cpus,
                const HeapParts& heap, const os::CpuSet& cpus, void (*attend)())
      : gate(gate_flags),
        policy(policy_kind, ageing_nodes),
        staging(vm.arena.staging(), vm.budget),
        store(vm.budget),
        parts{vm, *policy, gate, staging, store, uffd, wakeups},
        evictor(parts),
        filler(parts, evictor, courtesy, heap.objects),
        converter(parts),
        fault_loop(parts, evictor, filler, courtesy, thread_cpus),
        reclaimer(parts, evictor, converter, fault_loop, requests, forks, heap.free_pages, cpus, attend) {}

  FolioGate gate;
  AnyPolicy policy;
  Staging staging;
  Store store;
  os::Userfaultfd uffd;
  PagerParts parts;
  BlockRequests requests;
  ForkGate forks;
  Evictor evictor;
  Courtesy courtesy;
  Filler filler;
  Converter converter;
  FaultLoop fault_loop;
  Reclaimer reclaimer;
};

}  // namespace polder
