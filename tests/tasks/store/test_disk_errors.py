import errno
import os
import re

import pytest

from pipeline_config.errors import StoreError
from tasks.store.disk_errors import store_errors


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "No space left on device; free some space and run again, nothing was lost"),
        (errno.EDQUOT, "Disk quota exceeded; free some space and run again, nothing was lost"),
        (errno.EACCES, "Permission denied; set GLOVEFLOW_ARTIFACTS to a writable directory, nothing was lost"),
        (errno.EROFS, "Read-only file system; set GLOVEFLOW_ARTIFACTS to a writable directory, nothing was lost"),
    ],
)
def test_error_of_writing_says_where_why_and_what_to_do(tmp_path, number, expected):
    where = re.escape(f"{tmp_path}: cannot be written: {expected}")
    with pytest.raises(StoreError, match=f"^{where}$"), store_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_with_only_full_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.csv"), store_errors(tmp_path, only_full=True):
        (tmp_path / "corpus.csv").read_text()


def test_with_only_full_a_full_disk_is_still_an_error_of_the_store(tmp_path):
    with pytest.raises(StoreError, match="No space left on device"), store_errors(tmp_path, only_full=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_other_exceptions_pass_unchanged(tmp_path):
    with pytest.raises(ZeroDivisionError), store_errors(tmp_path):
        _ = 1 / 0
