"""384 MiB of objects under 64 MiB in a hardened heap, in a program that forks."""

import under_stress

under_stress.run("stress, hardened", "64M", "--bytes", "384M", "--fork", library_options=("--hardened", "1"))
