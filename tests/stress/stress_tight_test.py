"""384 MiB of objects under 16 MiB, in a program that forks."""

import under_stress

under_stress.run("stress, tight", "16M", "--bytes", "384M", "--fork")
