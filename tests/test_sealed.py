"""Sealed documents: whatever way they are written out, a content that was changed is noticed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volumetool.sealed import CHECKSUM, decode, encode, encode_line, is_sound, seal

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.text().filter(lambda name: name != CHECKSUM), VALUES, max_size=5)


@given(document=DOCUMENTS)
def test_a_document_is_read_back_however_it_was_written(document: dict[str, Any]) -> None:
    line, lines = encode_line(document), encode(document)
    assert line.count(b"\n") == 1
    assert decode(line) == decode(lines) == decode(json.dumps(json.loads(line), indent=4).encode()) == document
    assert is_sound(seal(document))


@given(document=DOCUMENTS, data=st.data())
def test_no_changed_bit_of_a_line_passes_as_another_content(document: dict[str, Any], data: st.DataObject) -> None:
    line = encode_line(document)
    place = data.draw(st.integers(0, len(line) - 1))
    changed = line[:place] + bytes([line[place] ^ (1 << data.draw(st.integers(0, 7)))]) + line[place + 1 :]
    try:
        content = decode(changed)
    except ValueError:
        return
    assert content == document  # only where the JSON means the same


@pytest.mark.parametrize("raw", [b"", b"{torn", b"[1, 2]", b"{}", b'{"a": 1}', b'{"a": 1, "checksum": "00000000"}', b"\xff"])
def test_what_was_never_sealed_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|checksum|utf-8|Expecting"):
        decode(raw)
