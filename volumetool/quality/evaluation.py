"""Evaluation: scores of sections and volumes against their truth, with intervals.

The functions for arrays are gathered here: `score` for one section, `bootstrap` for intervals.
"""

from __future__ import annotations

from volumetool.quality.intervals import bootstrap
from volumetool.quality.metrics import Scores, score

__all__ = ["Scores", "bootstrap", "score"]
