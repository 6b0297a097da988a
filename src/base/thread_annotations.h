// Clang's thread-safety annotations (https://clang.llvm.org/docs/ThreadSafetyAnalysis.html). Empty for g++; clang
// builds treat a violation as an error.
#pragma once

#if defined(__clang__)
#define POLDER_ATTRIBUTE(x) __attribute__((x))
#else
#define POLDER_ATTRIBUTE(x)
#endif

#define POLDER_CAPABILITY(name) POLDER_ATTRIBUTE(capability(name))
#define POLDER_SCOPED_CAPABILITY POLDER_ATTRIBUTE(scoped_lockable)
#define POLDER_GUARDED_BY(mutex) POLDER_ATTRIBUTE(guarded_by(mutex))
#define POLDER_PT_GUARDED_BY(mutex) POLDER_ATTRIBUTE(pt_guarded_by(mutex))
#define POLDER_REQUIRES(...) POLDER_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define POLDER_EXCLUDES(...) POLDER_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define POLDER_ACQUIRE(...) POLDER_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define POLDER_TRY_ACQUIRE(...) POLDER_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define POLDER_RELEASE(...) POLDER_ATTRIBUTE(release_capability(__VA_ARGS__))
#define POLDER_ASSERT_CAPABILITY(x) POLDER_ATTRIBUTE(assert_capability(x))
#define POLDER_RETURN_CAPABILITY(x) POLDER_ATTRIBUTE(lock_returned(x))
#define POLDER_NO_THREAD_SAFETY_ANALYSIS POLDER_ATTRIBUTE(no_thread_safety_analysis)
