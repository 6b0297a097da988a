"""1 GiB of objects under a limit that changes every two seconds."""

import under_stress

under_stress.run("stress, changing limit", "256M", "--bytes", "1G", changes="64M:256M")
