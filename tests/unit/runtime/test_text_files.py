"""Text that people write with any editor is read, or refused with what to do."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gridtokenx.runtime.text_files import decode_text, read_text

TEXT = "[node]\nnode_id = 'กฟน'\n"


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_marks_and_line_ends_do_not_count(encoding: str, ends: str) -> None:
    assert decode_text(TEXT.replace("\n", ends).encode(encoding)) == TEXT


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (TEXT.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("\ufeff".encode("utf-16-be") + TEXT.encode("utf-16-be"), "is UTF-16 text"),
        (TEXT.encode("utf-32"), "is UTF-32 text"),
        ("a = 1".encode("utf-16-le"), "holds NUL characters, as UTF-16 text does"),
        (TEXT.encode("tis-620"), r"is not UTF-8 text \(byte 19\): save it as UTF-8"),
    ],
)
def test_other_encodings_are_told(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_text(raw)


@given(st.binary(max_size=100))
def test_any_bytes_are_text_or_refused(raw: bytes) -> None:
    try:
        text = decode_text(raw)
    except ValueError:
        return
    assert "\0" not in text
    assert "\r\n" not in text


def test_no_more_is_read_than_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100)
    assert read_text(tmp_path / "file", 100) == "x" * 100
    with pytest.raises(ValueError, match="is larger than 99 bytes"):
        read_text(tmp_path / "file", 99)
