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

ATTESTED = (
    *table(
        "volumetool/evaluation/attestation/content.py",
        (
            "blank chunks are no finding",
            "if spread > STRUCTURE:",
            "if spread < 0:",
            "evaluation/test_attestation.py::test_what_was_planted_is_found_where_it_is",
        ),
        (
            "NaN are looked for where there are no data",
            "np.count_nonzero(valid & ~np.isfinite(voxels))",
            "np.count_nonzero(~valid & ~np.isfinite(voxels))",
            "evaluation/test_attestation.py::test_what_was_planted_is_found_where_it_is",
        ),
        (
            "a section that the output alone has brighter is no jump",
            "float(step - allowed)",
            "float(allowed - step)",
            "evaluation/test_attestation.py::test_a_good_output_passes_and_its_report_is_sealed_and_names_what_it_is_about",
        ),
        (
            "borders with regions that are not done count",
            "self.done[before]",
            "self.done[region.index]",
            "evaluation/test_attestation.py::test_an_unfinished_output_fails_and_a_part_can_be_read",
        ),
    ),
    *table(
        "volumetool/evaluation/attestation/seams.py",
        (
            "short borders count in full",
            "min(1.0, math.sqrt(piece.voxels / ENOUGH))",
            "1.0",
            "evaluation/test_attestation.py::test_short_borders_of_thin_regions_are_no_seams",
        ),
        (
            "seams are found nowhere",
            "for each, shown in ((ratios, rough), (shifts, shifted)) if shown",
            "for each, shown in ((ratios, rough), (shifts, shifted)) if not shown",
            "evaluation/test_attestation.py::test_what_was_planted_is_found_where_it_is",
        ),
    ),
    *table(
        "volumetool/evaluation/rescan.py",
        (
            "the worst boxes come last",
            'np.argsort(-sums.ravel(), kind="stable")',
            'np.argsort(sums.ravel(), kind="stable")',
            "evaluation/test_rescan.py::test_the_best_boxes_are_named_with_what_rescanning_them_removes",
        ),
    ),
)

MUTANTS = GEOMETRY + ENHANCEMENT + FILES + LEDGER + RESUME + GATES + ATTESTED
