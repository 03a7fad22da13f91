"""Let freed memory be used again instead of going back to the kernel."""

import numpy as np

_LARGEST_KEPT = (32 << 20) - (64 << 10)


def keep_freed_memory() -> None:
    """Let arrays of some megabytes be made again and again without new pages from the kernel each time.

    glibc gives freed memory back at once, unless it has seen a larger block freed: that sets the limit, 32 MiB at most.
    Elsewhere nothing happens. No page of the block is touched.
    """
    np.empty(_LARGEST_KEPT, np.uint8)
