"""Mutants of what decides a voxel: geometry, blending, rounding, means, reading and writing."""

from __future__ import annotations

from mutant import table

GEOMETRY = (
    *table(
        "volumetool/geometry/ramps.py",
        (
            "ramp half a voxel off",
            "+ 0.5) / max(1, length)",
            "+ 1.0) / max(1, length)",
            "geometry/test_lattice.py::test_ramps_are_symmetric_and_strictly_between_0_and_1",
        ),
        (
            "weights reversed",
            "np.arange(length, dtype=np.float64) +",
            "np.arange(length, dtype=np.float64)[::-1] +",
            "geometry/test_lattice.py::test_ramps_are_symmetric_and_strictly_between_0_and_1",
        ),
    ),
    *table(
        "volumetool/geometry/lattice.py",
        (
            "last patch skipped",
            "return -(-self.reach // self.stride)",
            "return max(1, self.reach // self.stride)",
            "geometry/test_lattice.py::test_patches_are_those_with_weight_in_the_volume",
        ),
        (
            "last patch of a region skipped",
            "last = -(-(stop - self.weight_start(0)) // step) - 1",
            "last = max(first, (stop - self.weight_start(0)) // step - 1)",
            "geometry/test_lattice.py::test_touching_names_the_patches_with_weight_there",
        ),
        (
            "patches start one voxel late",
            "return index * self.stride - self.margin",
            "return index * self.stride - self.margin + 1",
            "geometry/test_lattice.py::test_laying_patches_into_a_core_gives_every_voxel_a_whole_weight",
        ),
        (
            "trim forgotten at the start",
            "return (self.start(index) + self.trim) * self.scale",
            "return self.start(index) * self.scale",
            "geometry/test_lattice.py::test_laying_patches_into_a_core_gives_every_voxel_a_whole_weight",
        ),
        (
            "margin of a face off the pooling grid",
            "return -(-(self.overlap - self.trim) // self.granularity) * self.granularity",
            "return self.overlap - self.trim",
            "geometry/test_lattice.py::test_patches_start_on_multiples_of_the_granularity",
        ),
        (
            "margin of a face too short",
            "return -(-(self.overlap - self.trim) // self.granularity) * self.granularity",
            "return self.overlap // 2 // self.granularity * self.granularity",
            "geometry/test_lattice.py::test_full_weight_lies_as_far_from_a_patchs_border_at_the_faces_as_inside",
        ),
        (
            "stride off the pooling grid",
            "stride=min(line.stride, -(-least // line.granularity) * line.granularity)",
            "stride=min(line.stride, least)",
            "geometry/test_lattice.py::test_balanced_patches_are_as_few_and_no_longer",
        ),
    ),
    *table(
        "volumetool/geometry/mirror.py",
        (
            "mirror repeats the edge",
            "period = 2 * (size - 1)\n    phase = positions % period\n    return np.minimum(phase, period - phase)",
            "period = 2 * size\n    phase = positions % period\n    return np.minimum(phase, period - 1 - phase)",
            "geometry/test_mirror.py::test_reflection_is_numpys_repeated_as_often_as_needed",
        ),
    ),
    *table(
        "volumetool/geometry/transforms.py",
        (
            "translation without the half voxel",
            "(t + (b - a) / 2 for t, a, b",
            "(t for t, a, b",
            "geometry/test_levels.py::test_each_voxel_lies_over_those_that_it_is_the_mean_of",
        ),
    ),
    *table(
        "volumetool/geometry/sharing.py",
        (
            "last neighbour forgotten",
            "return range(low // size, -(-high // size))",
            "return range(low // size, max(low // size + 1, high // size))",
            "geometry/test_sharing.py::test_owners_and_neighbours_are_those_that_need_the_same_patches",
        ),
    ),
)

ENHANCEMENT = (
    *table(
        "volumetool/processing/blend.py",
        (
            "blended y before z",
            "    slab = xp.empty((depth, height, length), np.float32)\n",
            """    slab = xp.empty((depth, height, length), np.float32)
    if lattice.z.overlap:
        for number, z in enumerate(column.z):
            tall = xp.empty((patches[0].shape[0], height, length), np.float32)
            for row, y in enumerate(column.y):
                patch = patches[number * len(column.y) + row][:, :, keep]
                _lay(tall, patch, lattice.y.place(y, part.start[1], part.stop[1]), 1, weights["y"])
            _lay(slab, tall, lattice.z.place(z, part.start[0], part.stop[0]), 0, weights["z"])
        return slab
""",
            "processing/test_cut.py::test_the_cut_equals_the_whole_volume_reference",
        ),
        (
            "strip one voxel early",
            "slab[:, :, step : step + length].copy()",
            "slab[:, :, step - 1 : step - 1 + length].copy()",
            "processing/test_cut.py::test_the_cut_equals_the_whole_volume_reference",
        ),
    ),
    *table(
        "volumetool/processing/columns.py",
        (
            "neighbouring sections normalised one section off",
            "values[part.sections, None, None]",
            "values[np.maximum(part.sections - 1, 0), None, None]",
            "processing/test_cut.py::test_the_network_sees_real_neighbours_each_normalised_by_its_own_section",
        ),
        (
            "halo read without its last row",
            "last = Box.whole(lattice.patch).shifted(",
            "last = Box((0, 0, 0), (lattice.patch[0], max(1, lattice.patch[1] - 1), lattice.patch[2])).shifted(",
            "processing/test_cut.py::test_identity_repeats_every_voxel",
        ),
        (
            "statistics of the region instead of the section",
            "for values in spec.input_scale(channel))",
            "for values in (np.full(lattice.z.size, v, np.float32) for v in (block.min(), max(1, np.ptp(block)))))",
            "processing/test_cut.py::test_the_network_sees_real_neighbours_each_normalised_by_its_own_section",
        ),
    ),
    *table(
        "volumetool/processing/quantize.py",
        (
            "rounded half up",
            "xp.rint(values, out=values)",
            "xp.floor(values + np.float32(0.5), out=values)",
            "processing/test_cut.py::test_integers_are_the_reference_rounded_once",
        ),
        (
            "cast without clipping",
            "        xp.clip(values, limits.min, limits.max, out=values)\n",
            "        assert limits.max > limits.min\n",
            "processing/test_cut.py::test_integers_are_the_reference_rounded_once",
        ),
        (
            "valid voxels may take the fill value",
            "values[values == spec.fill] += 1 if spec.fill <= 0 else -1",
            "values[values == spec.fill] += 0",
            "processing/test_nodata.py::test_valid_voxels_stay_valid_and_missing_ones_missing",
        ),
    ),
    *table(
        "volumetool/storage/downsample.py",
        (
            "nodata averaged in",
            "_block_sums(np.where(valid, voxels, 0).astype(np.float64), factor)",
            "_block_sums(voxels.astype(np.float64), factor)",
            "processing/test_nodata.py::test_missing_voxels_are_left_out_of_every_mean",
        ),
        (
            "means beside nodata rounded half up",
            "mean = np.rint(mean)",
            "mean = np.floor(mean + 0.5)",
            "storage/test_levels.py::test_leaving_nothing_out_changes_nothing",
        ),
    ),
    *table(
        "volumetool/storage/voxels.py",
        (
            "read-back skipped",
            "if not is_lossy(self._store) and not np.array_equal(as_bytes(back), as_bytes(self.voxels)):",
            "if back.shape != self.voxels.shape:",
            "processing/test_failures.py::test_storage_that_changes_a_voxel_is_caught",
        ),
    ),
    *table(
        "volumetool/processing/writer.py",
        (
            "record before the last shard is written",
            "    _finish(behind, checksums)\n    return checksums",
            "    return checksums",
            "jobs/test_run.py::test_each_channel_is_a_volume_of_its_own",
        ),
    ),
    *table(
        "volumetool/processing/sections/repair.py",
        (
            "bad sections in a z context",
            "if each == z or each not in self._bad[channel]",
            "if each >= 0",
            "jobs/test_repaired_sections.py::test_neighbours_are_what_they_are_without_the_bad_sections",
        ),
        (
            "blocks counted from the window",
            "places = [np.arange(start, start + n) for start, n in",
            "places = [np.arange(n) for start, n in",
            "jobs/test_repaired_sections.py::test_what_a_filled_voxel_is_depends_on_no_window",
        ),
    ),
    *table(
        "volumetool/processing/spec.py",
        (
            "crop read from the volume's corner",
            "return region.box.shifted(self.origin)",
            "return region.box",
            "jobs/test_run.py::test_a_cropped_output_is_a_cut_out_of_the_whole_one",
        ),
    ),
    *table(
        "volumetool/processing/patch_cache.py",
        (
            "checksum of kept patches ignored",
            "if HEADER.unpack_from(stored) != (MAGIC, self._checksum(key, patch, voxels)):",
            "if HEADER.unpack_from(stored)[0] != MAGIC:",
            "jobs/execution/test_patch_cache.py::test_a_damaged_patch_is_computed_again",
        ),
    ),
)

FILES = (
    *table(
        "volumetool/storage/formats/hdf5/reader.py",
        (
            "filters undone in the order in which they were applied",
            "in reversed(list(enumerate(filters))):",
            "in list(enumerate(filters)):",
            "storage/test_hdf5.py::test_any_box_of_any_dataset_is_what_h5py_reads",
        ),
        (
            "filters that were left out for a chunk are undone",
            "if not mask >> place & 1:",
            "if number:",
            "storage/test_hdf5.py::test_a_chunk_that_a_filter_would_not_shrink_is_stored_without_it",
        ),
        (
            "bytes of a voxel taken in the wrong order",
            'return voxels.astype(voxels.dtype.newbyteorder("=")).view(self.dtype)',
            "return voxels.view(self.dtype)",
            "storage/test_hdf5.py::test_every_layout_and_byte_order_is_what_h5py_reads",
        ),
    ),
    *table(
        "volumetool/storage/formats/hdf5/file.py",
        (
            "links to other files followed",
            "if isinstance(link, h5py.ExternalLink):",
            "if link is False:",
            "storage/test_hdf5.py::test_what_lies_outside_of_a_file_is_not_opened",
        ),
    ),
    *table(
        "volumetool/storage/formats/npy.py",
        (
            "Fortran order taken for C order",
            "shape, axes = shape[::-1], axes[::-1]",
            "shape = shape[::-1]",
            "storage/test_npy.py::test_channels_in_both_orders_and_byte_orders_are_what_numpy_reads",
        ),
    ),
    *table(
        "volumetool/evaluation/tryout/views.py",
        (
            "crops of a tryout mirrored",
            "voxels = resolved[0].source(0).read(around)",
            "voxels = resolved[0].source(0).read(around)[:, ::-1]",
            "evaluation/test_tryout.py::test_a_crop_shows_the_bytes_that_the_job_stores_there",
        ),
        (
            "the first row of a tryout's crop shown from the side",
            "row = voxels.shape[1] // 2",
            "row = 0",
            "evaluation/test_tryout.py::test_a_crop_shows_the_bytes_that_the_job_stores_there",
        ),
    ),
)
