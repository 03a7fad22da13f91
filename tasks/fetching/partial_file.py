"""An unfinished download on disk: `<name>.part` with the bytes so far, and a sidecar that says where they are from.

The sidecar `<name>.part.json` holds the URL with its secrets masked, the ETag and the span. A download is only resumed
from the same URL, with the same span and a strong ETag; otherwise it starts over.
"""

import json
from pathlib import Path
from typing import NamedTuple

from pipeline_config.masking import mask_secrets


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

    def find_resume_point(self, url: str, span: Span | None) -> tuple[int, str] | None:
        """Return the number of bytes so far and their ETag, or None if the download has to start over."""
        try:
            origin = json.loads(self.sidecar.read_text("utf-8"))
            same = origin["url"] == mask_secrets(url) and origin["span"] == (span and list(span))
            etag = origin["etag"] if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (self.size, etag) if self.size and isinstance(etag, str) and is_strong_etag(etag) else None

    def write_sidecar(self, url: str, etag: str | None, span: Span | None) -> None:
        """Write down where the bytes are from."""
        self.sidecar.write_text(json.dumps({"url": mask_secrets(url), "etag": etag, "span": span}), "utf-8")

    def discard(self) -> None:
        """Delete the bytes and the sidecar."""
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def is_strong_etag(etag: str) -> bool:
    """Return whether an ETag identifies exact bytes, so that ranges with it can be joined (RFC 9110, 8.8.1)."""
    return len(etag) > 2 and etag.startswith('"')
