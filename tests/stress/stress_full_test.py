"""2 GiB of objects under 256 MiB."""

import under_stress

under_stress.run("stress", "256M", "--bytes", "2G")
