"""Write the JSON Schemas beside this file."""

from __future__ import annotations

from pathlib import Path

from volumetool.schemas.generate import schema_texts

for name, text in schema_texts().items():
    Path(__file__).with_name(f"{name}.json").write_text(text)
