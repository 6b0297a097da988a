"""Threads whose children read, and write, what is evicted: 384 MiB under 64 MiB."""

import under_limit

with under_limit.scratch():
    outcome = under_limit.limited([under_limit.BUILD / "tests" / "programs" / "fork_readers", "384", "2", "4"])
    under_limit.expect(outcome.status == 0, f"status {outcome.status}")
    under_limit.describe("fork_readers", outcome)
