"""Cleaning: leftovers of killed writers."""

from __future__ import annotations

from volumetool.jobs.folder import job_url
from volumetool.jobs.plan import Plan
from volumetool.store.kvstore import canonical_url, is_local, local_path

LEFTOVER = ".__lock"
"""How tensorstore's file driver ends the names of files that it is still writing; a finished write renames them away."""


def clean_output(plan: Plan) -> list[str]:
    """Remove temporary files of an output and its job's folder; return their paths.

    Call it only while no run of the job is going on. Object stores hold no such files.
    """
    removed = []
    for url in (canonical_url(plan.job.output), job_url(plan.job.output)):
        if is_local(url):
            for file in sorted(local_path(url).rglob(f"*{LEFTOVER}")):
                file.unlink()
                removed.append(str(file))
    return removed
