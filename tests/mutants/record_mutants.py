"""Mutants of what decides whether work is lost or believed: ledger, owner, storage, resuming, verifying."""

from __future__ import annotations

from mutant import table

LEDGER = (
    *table(
        "volumetool/jobs/records/ledger.py",
        (
            "no checksum on lines",
            "fields: Fields = decode(line)\n",
            "fields: Fields = __import__('json').loads(line)\n        fields.pop('checksum', None)\n",
            "jobs/records/test_ledger.py::test_a_damaged_line_costs_its_region_alone",
        ),
        (
            "torn tail taken for a record",
            'if not line.endswith(b"\\n"):',
            "if not line:",
            "jobs/records/test_ledger.py::test_a_segment_without_its_last_newline_costs_one_record_and_is_said "
            "jobs/records/test_ledger.py::test_a_torn_last_line_loses_nothing_before_it",
        ),
        (
            "fence ignored",
            "if not created and read_key(self.url, key) != lines:",
            "if not created and read_key(self.url, key) is None:",
            "jobs/records/test_lease.py::test_a_stale_owner_cannot_commit",
        ),
        (
            "old segments deleted before they are merged",
            """        while merged := b"".join(islice(kept, MERGED_RECORDS)):
            self._create(merged)
        delete_segments(self.url, keys)
""",
            """        merged = b"".join(kept)
        delete_segments(self.url, keys)
        self._create(merged)
""",
            "jobs/records/test_ledger.py::test_a_compaction_that_dies_before_the_old_segments_are_gone_changes_nothing",
        ),
        (
            "records lost where their segment cannot be written",
            '                self._create(b"".join(map(_line, self._leaving)))\n                self._leaving = []',
            "                leaving, self._leaving = self._leaving, []\n"
            '                self._create(b"".join(map(_line, leaving)))',
            "jobs/records/test_ledger.py::test_records_wait_on_where_their_segment_cannot_be_written",
        ),
    ),
    *table(
        "volumetool/jobs/records/lease.py",
        (
            "who stood still does not look whether the job is still its own",
            "        claim.beat()\n        claim.check()\n",
            "        claim.check()\n",
            "jobs/records/test_stale_owner.py",
        ),
    ),
    *table(
        "volumetool/jobs/records/segments.py",
        (
            "earlier record wins",
            "if SEGMENT.fullmatch(key))",
            "if SEGMENT.fullmatch(key))[::-1]",
            "jobs/records/test_ledger.py::test_segments_are_read_in_the_order_of_writing",
        ),
        (
            "merging frees the owners' numbers",
            "        if read_key(url, key):\n            confirm",
            "        if read_key(url, key) is not None:\n            confirm",
            "jobs/records/test_lease.py::test_merging_segments_frees_no_number_for_a_stale_owner",
        ),
        (
            "a part that was taken for dead commits after its records were merged",
            'while keys and not create_key(url, segment_key(prefix, number_of(keys[-1]) + 1), b""):',
            "while False:",
            "jobs/execution/test_parts.py::test_a_driver_of_a_part_that_was_taken_for_dead_cannot_commit",
        ),
    ),
    *table(
        "volumetool/jobs/records/lease.py",
        (
            "owner followed before its lease is over",
            "if not free and watched is not None and clock() - since >= LEASE_SECONDS:",
            "if not free and watched is not None:",
            "jobs/records/test_lease.py::test_a_silent_owner_of_another_machine_is_followed_after_a_lease",
        ),
        (
            "ownership never expires",
            "        elif found != watched:\n            raise _owned(url, found)",
            "        else:\n            raise _owned(url, found)",
            "jobs/records/test_lease.py::test_a_silent_owner_of_another_machine_is_followed_after_a_lease",
        ),
    ),
    *table(
        "volumetool/process.py",
        (
            "any process with the owner's number is the owner",
            "return now == self.born",
            "return True",
            "test_process.py::test_another_process_with_the_same_number_is_another",
        ),
    ),
    *table(
        "volumetool/storage/io/kvstore.py",
        (
            "claim not create-if-absent",
            ".write(key, data, if_equal=generation).result())",
            ".write(key, data).result())",
            "jobs/records/test_lease.py::test_a_stale_owner_cannot_commit",
        ),
        (
            "a write whose answer is lost has lost its race",
            "return bytes(found.stamp.generation) if data and found.value == data else None",
            "return None",
            "storage/test_retries.py::test_a_conditional_write_whose_answer_is_lost_has_not_lost_its_race",
        ),
    ),
    *table(
        "volumetool/storage/io/retries.py",
        (
            "forbidden is tried again",
            "if code in (408, 409, 425)",
            "if code in (403, 408, 409, 425)",
            "storage/test_retries.py::test_every_http_status_has_its_verdict",
        ),
        (
            "retries without a budget",
            "            self._left -= 1\n",
            "            self._left -= 0\n",
            "storage/test_retries.py::test_a_budget_bounds_what_all_operations_together_retry",
        ),
    ),
)

RESUME = (
    *table(
        "volumetool/jobs/execution/schedule.py",
        (
            "resuming leaves failed regions out",
            "if ledger.states[index] != DONE and (",
            "if ledger.states[index] == 0 and (",
            "jobs/test_resume.py::test_a_damaged_input_chunk_costs_its_regions_alone",
        ),
        (
            "resuming does finished regions again",
            "if ledger.states[index] != DONE and (",
            "if ledger.states[index] < 3 and (",
            "jobs/test_resume.py::test_running_twice_finds_nothing_to_do",
        ),
    ),
    *table(
        "volumetool/jobs/execution/worker.py",
        (
            "shards noted as not stored",
            "            stored=stored,\n",
            "            stored=tuple(('',) * len(shards) for shards in stored),\n",
            "storage/test_pyramid.py::test_the_levels_of_an_enhanced_volume_are_built_to_the_same_bytes",
        ),
    ),
    *table(
        "volumetool/jobs/preparation.py",
        (
            "records kept though their volume is gone",
            '        delete_segments(folder, close_segments(folder, ""))\n        create_volume(',
            "        create_volume(",
            "jobs/test_resume.py::test_records_without_their_volume_count_for_nothing",
        ),
        (
            "finished regions thrown away with the volume's metadata",
            "if (done := open_ledger(plan).done) and list_keys(place):",
            "if (done := 0) and list_keys(place):",
            "jobs/verification/test_damage.py::test_lost_metadata_cost_no_finished_region",
        ),
        (
            "overwriting deletes the volume before its records",
            '        delete_segments(folder, close_segments(folder, ""))\n        for place',
            "        delete_prefix(plan.job_dir.place)\n        for place",
            "jobs/test_resume.py::test_overwriting_that_dies_half_way_never_leaves_records_without_voxels",
        ),
    ),
    *table(
        "volumetool/jobs/run.py",
        (
            "complete said before the coarse levels are there",
            "    build_coarse_levels(plan, within, observer)\n    if complete and",
            "    finish(plan, ledger)\n    build_coarse_levels(plan, within, observer)\n    if complete and",
            "jobs/test_resume.py::test_a_run_that_dies_at_any_step_can_be_taken_up",
        ),
        (
            "complete said without a look at what is stored",
            "    if not check_whole(plan, ledger):\n        return False\n    complete",
            "    complete",
            "jobs/verification/test_damage_midway.py::test_a_finished_job_that_was_damaged_is_not_called_complete_again",
        ),
        (
            "coarse levels not noted before the first record",
            "                note_unbuilt(plan)\n                noted = True\n",
            "                noted = True\n",
            "jobs/test_resume.py::test_coarse_levels_of_parts_that_killed_runs_left_are_built_by_the_same_command_or_another",
        ),
        (
            "a job in which nothing works goes on",
            "if failed >= MAX_CONSECUTIVE_FAILURES and not",
            "if failed >= 1000 * MAX_CONSECUTIVE_FAILURES and not",
            "jobs/test_resume.py::test_a_job_in_which_nothing_works_stops_soon_and_says_why",
        ),
    ),
    *table(
        "volumetool/jobs/execution/finalize.py",
        (
            "coarse levels of all channels made from the first",
            "fine, coarse = (open_written(plan, each, channel) for each in (number - 1, number))",
            "fine, coarse = open_written(plan, number - 1, 0), open_written(plan, number, channel)",
            "jobs/test_run.py::test_each_channel_is_a_volume_of_its_own",
        ),
    ),
    *table(
        "volumetool/jobs/planning/resolve.py",
        (
            "lattice laid over the part that is asked for",
            "lattice = make_lattice(job, inputs.operation.card, inputs.level.shape)",
            "lattice = make_lattice(job, inputs.operation.card, inputs.level.shape if job.roi is None else job.roi.shape)",
            "jobs/test_resume.py::test_a_part_first_and_then_the_whole",
        ),
    ),
    *table(
        "volumetool/processing/spec.py",
        (
            "fingerprint without a field",
            "json.dumps(self.plain(), sort_keys",
            'json.dumps(self.plain() | {"fill": None}, sort_keys',
            "jobs/planning/test_conflicts.py::test_a_job_with_another_semantic_field_is_refused_and_the_field_named",
        ),
    ),
    *table(
        "volumetool/jobs/records/plan_file.py",
        (
            "touched statistics taken",
            "    elif stored != table:\n",
            "    elif not stored:\n",
            "jobs/planning/test_conflicts.py::test_a_table_of_statistics_that_was_edited_is_refused_and_a_deleted_one_is_written_again",
        ),
    ),
    *table(
        "volumetool/jobs/execution/supervisor.py",
        (
            "set aside after three attempts instead of two",
            "DEATHS = 2\n",
            "DEATHS = 3\n",
            "jobs/execution/test_bad_regions.py::test_what_is_set_aside_stays_so_until_it_is_asked_for",
        ),
    ),
    *table(
        "volumetool/jobs/verification/verify.py",
        (
            "coarse levels not verified",
            "        _verify_coarse(plan, shards, report, count)\n",
            "        pass\n",
            "jobs/verification/test_verify.py::test_on_every_level_lost_torn_and_swapped_shards_are_found",
        ),
    ),
    *table(
        "volumetool/jobs/verification/repair.py",
        (
            "damaged volume still calls itself complete",
            "calls itself nothing\n                mark_incomplete(plan)\n",
            "calls itself nothing\n                pass\n",
            "jobs/verification/test_damage.py::test_what_is_repaired_is_as_before_and_nothing_else_is_made_again "
            "jobs/verification/test_verify.py::test_what_is_condemned_is_mended_by_the_next_run",
        ),
    ),
)
