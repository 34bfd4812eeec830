"""Names of cases that some formats lack, and why; chunks of the volumes that the tests of formats write."""

from __future__ import annotations

CHUNK = (4, 16, 16)
EMPTY = "test_a_volume_without_voxels_is_refused"
FLIPPED = "test_a_flipped_bit_is_never_other_voxels"
HUGE = "test_a_volume_that_only_says_that_it_is_huge_takes_no_memory"
ORDER = "test_voxels_of_the_other_byte_order_come_back_exactly"
UNSURE = "its chunks have no checksum"
