"""An unfinished download on disk: `<name>.part` with the bytes so far, and a sidecar that says where they are from.

The sidecar `<name>.part.json` holds the URL with its secrets masked, the ETag and the span, and after a transfer that
broke off the SHA-256 of the bytes so far. A download is only resumed from the same URL, with the same span and a strong
ETag; otherwise it starts over. Bytes that no later check could find to be damaged must have the SHA-256, too.
"""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

from pipeline_config.masking import mask_secrets
from tasks.store.artifacts import file_digest


class Span(NamedTuple):
    """Bytes `start` to `end` (exclusive) of a remote file that is `total` bytes long and has this ETag."""

    start: int
    end: int
    total: int
    etag: str


class PartialFile(NamedTuple):
    """An unfinished download: the bytes so far, and a sidecar that says where they are from."""

    path: Path

    @property
    def sidecar(self) -> Path:
        """Path of the sidecar."""
        return self.path.with_suffix(f"{self.path.suffix}.json")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def find_resume_point(self, url: str, span: Span | None, *, checked_later: bool) -> tuple[int, str] | None:
        """Return the number of bytes so far and their ETag, or None if the download has to start over.

        Args:
            url: address of the file.
            span: the wanted span of it; None for the whole file.
            checked_later: whether damage of the bytes so far would be found once the download is complete.
        """
        try:
            origin = json.loads(self.sidecar.read_text("utf-8"))
            same = origin["url"] == mask_secrets(url) and origin["span"] == (span and list(span))
            intact = checked_later or origin["sha256"] == file_digest(self.path)
            etag = origin["etag"] if same and intact else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (self.size, etag) if self.size and isinstance(etag, str) and is_strong_etag(etag) else None

    def write_sidecar(self, url: str, etag: str | None, span: Span | None) -> None:
        """Write down where the bytes are from."""
        self.sidecar.write_text(json.dumps({"url": mask_secrets(url), "etag": etag, "span": span}), "utf-8")

    def record_digest(self) -> None:
        """Add the SHA-256 of the bytes so far to the sidecar, if both can be read and written."""
        with contextlib.suppress(OSError, ValueError):
            origin = json.loads(self.sidecar.read_text("utf-8"))
            self.sidecar.write_text(json.dumps({**origin, "sha256": file_digest(self.path)}), "utf-8")

    def discard(self) -> None:
        """Delete the bytes and the sidecar."""
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def is_strong_etag(etag: str) -> bool:
    """Return whether an ETag identifies exact bytes, so that ranges with it can be joined (RFC 9110, 8.8.1)."""
    return len(etag) > 2 and etag.startswith('"')
