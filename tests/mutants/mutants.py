"""Seeded mutants: plausible bugs, each with the tests that must notice it.

A mutant is one passage of today's source and what stands there instead. Whoever changes such a passage changes the mutant, too.
"""

from __future__ import annotations

from mutant import table
from record_mutants import LEDGER, RESUME
from voxel_mutants import ENHANCEMENT, FILES, GEOMETRY

GATES = (
    *table(
        "volumetool/viewer/served_keys.py",
        (
            "any file below the volume is served",
            "if key not in self.metadata and not self.chunks(key):",
            "if not key:",
            "viewer/test_server.py::test_a_key_is_served_only_in_the_one_spelling_of_its_format",
        ),
        (
            "links out of the volume are followed",
            "if path.is_file() and path.is_relative_to(self.root.resolve()) else None",
            "if path.is_file() else None",
            "viewer/test_server.py::test_a_link_out_of_the_volume_is_not_followed",
        ),
    ),
    *table(
        "volumetool/redaction.py",
        (
            "queries of URLs repeated",
            'return _QUERY.sub(rf"\\1{HIDDEN}", _USER.sub(rf"\\1{HIDDEN}@", text))',
            'return _USER.sub(rf"\\1{HIDDEN}@", text)',
            "security/test_secrets.py::test_redaction_takes_secrets_and_leaves_the_rest",
        ),
    ),
    *table(
        "volumetool/storage/io/chunk_files.py",
        (
            "Blosc may unpack to anything",
            "    if asked > most:\n",
            "    if asked > 2**40:\n",
            "security/test_bombs.py::test_no_bomb_goes_off",
        ),
    ),
)

MUTANTS = GEOMETRY + ENHANCEMENT + FILES + LEDGER + RESUME + GATES
