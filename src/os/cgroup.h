// What the control groups around this process allow it. Kernel documents: admin-guide/cgroup-v2.rst (cpu.max),
// scheduler/sched-bwc.rst (cpu.cfs_quota_us). Thread-safe, no allocation; reads small files, so not for hot paths.
#pragma once

namespace polder::os {

// True when a group of this process, or one above it that can be seen from here, may use only a share of the CPU time:
// what is spent on waiting is then missing elsewhere. `membership` and `mount` are /proc/self/cgroup and /sys/fs/cgroup,
// others in tests.
bool cpu_is_rationed(const char* membership = "/proc/self/cgroup", const char* mount = "/sys/fs/cgroup");

}  // namespace polder::os
