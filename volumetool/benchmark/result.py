"""What a benchmark found: pairs of floor and job, their medians, rates and shares."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

from volumetool.geometry import Triple
from volumetool.processing.pipeline import STAGES


@dataclass(frozen=True)
class Pair:
    """One floor and one job, one right after the other.

    Attributes
    ----------
    network, write : float
        Seconds of the floor: every patch through the network, every byte of the output compressed and written.
    floor, job : float
        Seconds of the floor and of the job.
    job_network : float
        Seconds that the job's workers spent inside the network, added up: waiting for a core included.
    stages : dict of str to float
        Seconds in which each stage of the job had something to do, added up over workers; stages run beside each other.
    """

    network: float
    write: float
    floor: float
    job: float
    job_network: float
    stages: dict[str, float]

    @property
    def ratio(self) -> float:
        """Time of the job in times of the floor."""
        return self.job / self.floor


@dataclass(frozen=True)
class BenchResult:
    """Measured figures.

    Attributes
    ----------
    model, device, precision : str
        Model, device and precision of the job.
    batch, streams, threads, workers : int
        Patches per call; calls side by side; CPU threads per worker; workers of the job.
    input_shape, output_shape : tuple of int
        Shapes of the job, in voxels.
    patches : int
        Patches that the floor's network saw: each of the lattice once, but none that a job skips.
    computed : int
        Patches that the job's network saw: those that several regions need count several times.
    stored_bytes : int
        All levels of the output, before compression.
    operations : int
        Floating-point operations of the network for one patch.
    product_rate : float
        Floating-point operations per second of a product of large matrices, in the same precision on the same device; 0 for a
        network without operations.
    pairs : tuple of Pair
        Pairs in the order in which they ran.
    notes : tuple of str
        Warnings of the job's plan.
    """

    model: str
    device: str
    precision: str
    batch: int
    streams: int
    threads: int
    workers: int
    input_shape: Triple
    output_shape: Triple
    patches: int
    computed: int
    stored_bytes: int
    operations: int
    product_rate: float
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    @property
    def ratio(self) -> float:
        """Median of job / floor over the pairs."""
        return statistics.median(pair.ratio for pair in self.pairs)

    @property
    def share(self) -> float:
        """The machine's speed that arrives in the output: median of floor / job."""
        return statistics.median(pair.floor / pair.job for pair in self.pairs)

    @property
    def void(self) -> bool:
        """Whether the run says nothing: a job below its floor was not measured under the same conditions."""
        return any(pair.ratio < 1 for pair in self.pairs)

    def median(self, name: str) -> float:
        """Return the median of one field of the pairs."""
        return float(statistics.median(getattr(pair, name) for pair in self.pairs))

    @property
    def stages(self) -> dict[str, float]:
        """Medians over the pairs of the seconds in which each stage of the job had something to do."""
        return {stage: float(statistics.median(pair.stages[stage] for pair in self.pairs)) for stage in STAGES}

    @property
    def rates(self) -> dict[str, float]:
        """Rates by name: of the network, of writing, from end to end, and of arithmetic in the network and in a product."""
        voxels = self.output_shape[0] * self.output_shape[1] * self.output_shape[2]
        network = self.median("network")
        return {
            "network_mvox_per_s": voxels / 1e6 / network if network else 0.0,
            "network_patches_per_s": self.patches / network if network else 0.0,
            "write_mb_per_s": self.stored_bytes / 1e6 / self.median("write"),
            "job_mvox_per_s": voxels / 1e6 / self.median("job"),
            "network_tflop_per_s": self.patches * self.operations / 1e12 / network if network else 0.0,
            "product_tflop_per_s": self.product_rate / 1e12,
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, the medians and spreads with it."""
        ratios = [pair.ratio for pair in self.pairs]
        medians = {name: self.median(name) for name in ("network", "write", "floor", "job", "job_network")}
        return asdict(self) | {
            "seconds": medians,
            "stages": self.stages,
            "rates": self.rates,
            "ratio": {"median": self.ratio, "min": min(ratios), "max": max(ratios)},
            "share": self.share,
            "void": self.void,
        }
