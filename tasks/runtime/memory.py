"""Keep freed memory for reuse instead of giving it back to the kernel."""

import numpy as np

_LARGEST_KEPT = (32 << 20) - (64 << 10)


def keep_freed_memory() -> None:
    """Allocate and free a block of 32 MiB, so that arrays of some megabytes get no new pages from the kernel each time.

    glibc gives a freed block back to the kernel at once, unless it has seen a larger block freed; that one sets the
    limit, up to 32 MiB. With other C libraries this has no effect. No page of the block is touched.
    """
    np.empty(_LARGEST_KEPT, np.uint8)
