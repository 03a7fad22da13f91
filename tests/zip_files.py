"""Zip files as bytes; tests and campaigns share it."""

import io
import zipfile


def make_zip(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    """Return a zip file of these members; the same arguments always give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.comment = comment
        for name, content in members:
            entry = zipfile.ZipInfo(name)  # dated 1980, not today
            entry.external_attr = 0 if name.endswith("/") else 0o600 << 16
            archive.writestr(entry, content, compression)
    return buffer.getvalue()
