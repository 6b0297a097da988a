#!/usr/bin/env python3
"""`polder doctor`."""

import os
import re

from support import CommandTest, main, run

SUBJECTS = ("kernel", "userfaultfd", "io_uring", "PAGEMAP_SCAN", "swap directory", "guard pages", "huge pages", "overcommit",
            "address space", "max_map_count", "control group")


class Doctor(CommandTest):
    def test_table(self):
        result = run("doctor")
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        lines = result.stdout.splitlines()
        for subject in SUBJECTS:
            self.assertTrue(any(re.match(rf"(ok|note|missing) +{re.escape(subject)} ", line) for line in lines), subject)
        self.assertRegex(lines[-1], r"^tier: (full$|allocator only \(hard limit, no paging\); .+)")

    def test_advice_follows_what_is_missing(self):
        lines = run("doctor", "--swap-dir", "/nonexistent").stdout.splitlines()
        index = next(i for i, line in enumerate(lines) if "swap directory" in line)
        self.assertTrue(lines[index].startswith("missing"))
        self.assertIn("does not exist", lines[index])
        self.assertIn("--swap-dir", lines[index + 1])

    def test_address_space_limit(self):
        import resource
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
        result = run("doctor", preexec_fn=limit)
        self.assertEqual(result.returncode, 0)
        self.assertIn("ulimit -v unlimited", result.stdout)

    def test_memory_filesystem_is_no_place_to_swap(self):
        if not os.path.ismount("/dev/shm"):
            self.skipTest("no /dev/shm")
        self.assertIn("is itself memory", run("doctor", "--swap-dir=/dev/shm").stdout)


if __name__ == "__main__":
    main()
