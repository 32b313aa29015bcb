"""Text that people write with any editor: byte order marks, line ends of Windows, other encodings.

Standard library only.
"""

from __future__ import annotations

import codecs
from pathlib import Path

_OTHER_MARKS = {  # UTF-32 first: its little-endian mark begins with that of UTF-16.
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def read_text(path: Path, max_bytes: int) -> str:
    """The text of a file, as `decode_text`. Errors: ValueError likewise, OSError."""
    with path.open("rb") as stream:
        raw = stream.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise ValueError(f"is larger than {max_bytes} bytes")
    return decode_text(raw)


def decode_text(raw: bytes) -> str:
    r"""The text without its byte order mark, every line end as `\n`.

    Errors: ValueError, whose text continues a sentence that begins with the file's name.
    """
    for mark, name in _OTHER_MARKS.items():
        if raw.startswith(mark):
            raise ValueError(f"is {name} text: save it as UTF-8")
    try:
        text = raw.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        where = f"byte {error.start + 1}"
        raise ValueError(f"is not UTF-8 text ({where}): save it as UTF-8") from None
    if "\0" in text:
        raise ValueError("holds NUL characters, as UTF-16 text does: save it as UTF-8")
    return text.replace("\r\n", "\n")
