"""``volumetool evaluate``: how good a restored volume is, and why; ``advise``, ``try`` and ``rescan``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from volumetool.cli._job_options import given, job_options
from volumetool.cli._json import print_json
from volumetool.cli._options import Json, local_path
from volumetool.cli._progress import observing
from volumetool.cli._tables import say

if TYPE_CHECKING:
    from volumetool.evaluation.evaluate import EvaluationRequest
    from volumetool.evaluation.results import Evaluation


def evaluate(
    restored: Annotated[str | None, typer.Argument(help="Restored volume; with --unblind, a CSV of ratings.")] = None,
    truth: Annotated[str | None, typer.Argument(help="Fine volume of the same field; with --unblind, more ratings.")] = None,
    low: Annotated[str | None, typer.Option(help="What was restored: classical methods start from it.")] = None,
    second: Annotated[
        str | None, typer.Option(help="A second acquisition of the field, restored separately: for FRC and FSC.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The model that restored LOW: scored after a filter along z, and for expected errors.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(parser=local_path, help="HTML file to write: one page that holds everything.")
    ] = None,
    blind: Annotated[
        Path | None, typer.Option(parser=local_path, help="Folder for a kit for human raters; no scores unless --report.")
    ] = None,
    unblind: Annotated[Path | None, typer.Option(parser=local_path, help="Kit whose ratings to count.")] = None,
    roi: Annotated[str | None, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only this box, in voxels of TRUTH.")] = None,
    data_range: Annotated[float | None, typer.Option(help="Largest minus smallest possible value; 255 for 8 bit.")] = None,
    sections: Annotated[int, typer.Option(min=1, help="Sections to score at most, evenly spread.")] = 32,
    tune: Annotated[bool, typer.Option("--tune", help="Give each classical method its best strength for these data.")] = False,
    same_corner: Annotated[
        bool, typer.Option("--same-corner", help="All volumes begin at the same corner, whatever their translations say.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap and of the kit.")] = 0,
    as_json: Json = False,
) -> None:
    """Score a restored volume against the truth, beside every classical method that it has to beat."""
    from volumetool.errors import ConfigError

    if unblind is not None:
        _count(unblind, [local_path(each) for each in (restored, truth) if each], as_json=as_json)
        return
    if restored is None or truth is None:
        raise ConfigError("config.option", "two volumes are needed", hint="volumetool evaluate RESTORED TRUTH [--low LOW]")
    from volumetool.evaluation.api import EvaluationOptions, open_request

    asked: dict[str, Any] = {"low": low, "second": second, "model": model, "roi": roi, "data_range": data_range}
    asked |= {"sections": sections, "tune": tune, "same_corner": same_corner, "seed": seed}
    options = EvaluationOptions(restored=restored, truth=truth, **asked)
    with observing() as observer:
        request = open_request(options, observer)
    if blind is not None:
        _write_kit(request, blind, as_json=as_json and report is None)
    if blind is None or report is not None:
        _score(request, report, as_json=as_json)


def advise(
    truth: Annotated[str, typer.Argument(help="Volume that was scanned finely and slowly.")],
    tissue: Annotated[float, typer.Option(help="Tissue that is to be imaged, in cubic millimetres.")] = 1.0,
    dwell: Annotated[str, typer.Option(metavar="US,US,...", help="Dwell times to compare, in microseconds.")] = "0.1,0.4,1.6",
    recipe: Annotated[
        str, typer.Option(help="What the microscope does to an image: a recipe or a file, as of `crappify --fit`.")
    ] = "sem-fast",
    reference: Annotated[float, typer.Option(help="Dwell time at which it has the recipe's noise, in microseconds.")] = 0.4,
    current: Annotated[float, typer.Option(help="Beam current in nanoamperes.")] = 1.0,
    roi: Annotated[str | None, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Use this box, in voxels of TRUTH.")] = None,
    report: Annotated[
        Path | None, typer.Option(parser=local_path, help="HTML file to write: table, chart and pictures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which quality to expect of which pixel size and dwell time, for how much beam time and dose."""
    from volumetool.cli._tables import print_facts

    from volumetool.evaluation.advice import advise as look

    asked: dict[str, Any] = {"tissue": tissue, "dwell": dwell, "recipe": recipe, "reference": reference, "current": current}
    with observing() as observer:
        found = look(truth, report=report, observer=observer, roi=roi, **asked)
    if report is not None:
        say(f"wrote {report}")
    if as_json:
        print_json("advice", found.as_dict())
        return
    rows = []
    for each in found.settings:
        row = {"nm": f"{each.pixel_nm:g}", "us": f"{each.dwell_us:g}", "model": each.model, "dB": f"{each.psnr:.2f}"}
        row |= {"bilinear": f"{each.psnr_bilinear:.2f}", "FRC nm": "n/a" if each.frc_nm is None else f"{each.frc_nm:.1f}"}
        rows.append(
            {
                **row,
                "days": f"{each.beam_days:,.0f}" if each.beam_days >= 100 else f"{each.beam_days:.3g}",
                "e/nm2": f"{each.dose:.3g}",
                "": "worth" if each.worth else "",
            }
        )
    print_facts({f"{found.tissue:g} mm3 of tissue in sections of {found.section_nm:g} nm": rows})
    for reason in found.left_out:
        say(f"left out: {reason}")


def rescan(
    output: Annotated[str, typer.Argument(help="Volume with a channel expected-error: an output, or a trust volume.")],
    size: Annotated[
        str | None,
        typer.Option(metavar="Z,Y,X", help="Size of a box in nm; by default one section, 64 x 64 voxels of the output."),
    ] = None,
    fraction: Annotated[float, typer.Option(help="Share of the volume that may be rescanned: so many boxes are named.")] = 0.1,
    stage: Annotated[
        str | None, typer.Option(metavar="FILE", help="YAML file that says how nm become stage coordinates.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(parser=local_path, help="CSV file of the boxes to write; a JSON of GeoJSON's form beside it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank boxes by the error that is expected of them times their area: where a slow scan pays, and what it removes."""
    from volumetool.cli._tables import print_facts

    from volumetool.evaluation.rescan import rescan as rank

    with observing() as observer:
        found = rank(output, size=size, fraction=fraction, stage=stage, report=report, observer=observer)
    if report is not None:
        say(f"wrote {len(found.boxes)} boxes to {report} and {report.with_suffix('.json')}")
    if as_json:
        print_json("rescan", found.as_dict())
        return
    left = [{"rescanned": "0 %", "error removed": "0 %", "mean error left": f"{found.mean_error:.3g}"}]
    for step in found.steps:
        row = {"rescanned": f"{step.fraction:.1%}", "error removed": f"{step.removed:.1%}"}
        left.append({**row, "mean error left": f"{step.mean_error:.3g}"})
    print_facts({"what rescanning removes": left})
    boxes = [{"rank": each.rank, "voxels z,y,x": str(each.box), "error": each.expected_error} for each in found.boxes[:10]]
    print_facts({f"the first of {len(found.boxes)} boxes": boxes})


def _score(request: EvaluationRequest, report: Path | None, *, as_json: bool) -> None:
    from volumetool.evaluation.evaluate import evaluate as evaluate_volumes
    from volumetool.evaluation.results import protocol_words

    with observing() as observer:
        found = evaluate_volumes(request, observer)
    if report is not None:
        from volumetool.evaluation.report import write_report

        write_report(found, request, report)
        say(f"wrote {report}")
    if as_json:
        print_json("evaluation", found.as_dict())
        return
    _print(found)
    for sentence in protocol_words(found):
        say(f"- {sentence}")


def _print(found: Evaluation) -> None:
    from volumetool.cli._tables import print_facts

    from volumetool.evaluation.results import NotAvailable, verdict
    from volumetool.evaluation.scores.block_sums import METRICS

    rows = []
    for row in found.rows:
        cells = {"method": row.name, "strength": row.shown_strength}
        for metric in METRICS:
            digits = 2 if metric.startswith("psnr") else 4
            cells[metric.replace("_affine", " affine")] = f"{getattr(row.scores, metric):.{digits}f}"
        rows.append(cells)
    say(f"{' '.join(verdict(found))}\n", sys.stdout)
    facts: dict[str, object] = {"scores": rows}
    for name in ("frc", "fsc"):
        curve = getattr(found, name)
        words = "; ".join(f"{crossing.threshold}: {crossing.words}" for crossing in getattr(curve, "crossings", ()))
        facts[name] = f"n/a: {curve.reason}" if isinstance(curve, NotAvailable) else words
    if found.expected_error is not None:
        facts["expected error"] = found.expected_error.words
    print_facts(facts)


def _write_kit(request: EvaluationRequest, folder: Path, *, as_json: bool) -> None:
    from volumetool.evaluation.blind_rating import PAGE, write_kit

    trials = write_kit(request, folder)
    if as_json:
        print_json("rating-kit", {"folder": str(folder), "trials": trials})
    say(f"wrote {trials} trials; raters open {folder / PAGE}")


def _count(folder: Path, ratings: list[Path], *, as_json: bool) -> None:
    from volumetool.errors import ConfigError
    from volumetool.evaluation.blind_rating import read_ratings

    if not ratings:
        raise ConfigError(
            "config.option", "--unblind without ratings", hint=f"volumetool evaluate --unblind {folder} ratings.csv"
        )
    found = read_ratings(folder, ratings)
    if as_json:
        print_json("ratings", {"pairs": [asdict(each) for each in found]})
        return
    for each in found:
        words = f"{each.first} {each.for_first}, {each.second} {each.for_second}, no difference {each.equal}"
        if each.share is not None and each.interval is not None:
            low, high = each.interval
            words += f"; {each.share:.0%} of the decided for {each.first} (95 % interval {low:.0%} to {high:.0%})"
        say(words, sys.stdout)


@job_options(without=("model", "crop", "gate", "part", "overwrite", "cluster", "dashboard", "notify"))
def try_(
    input: Annotated[str, typer.Argument(metavar="INPUT", help="Volume to try models on; path or URL.")],  # noqa: A002
    page: Annotated[Path, typer.Argument(metavar="PAGE", parser=local_path, help="HTML file to write.")] = Path("try.html"),
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Model or other operation to try, may be repeated; by default all that fit."),
    ] = None,
    at: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Show the crop around this voxel instead.")] = None,
    side: Annotated[int, typer.Option(help="Side of the crops, in voxels of INPUT.")] = 128,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Show on one page what each model makes of typical parts of a volume, and what the whole job would cost.

    Nothing but the page is written. It names the command that runs the job.
    """
    from volumetool.evaluation.tryout.api import try_models

    with observing() as observer:
        found = try_models(input, page, models=models or (), at=at, side=side, observer=observer, **given(options))
    if as_json:
        models_found = [asdict(each) | {"gate": each.gate and each.gate.model_dump(mode="json")} for each in found.models]
        print_json("tryout", asdict(found) | {"page": str(found.page), "models": models_found})
    else:
        for each in found.models:
            say(f"{each.model}: {each.verdict}\n  {each.command}", sys.stdout)
        for name, reason in found.left_out:
            say(f"{name}: not tried: {reason}")
    say(f"wrote {found.page}")
    if open_page:
        import webbrowser

        webbrowser.open(found.page.as_uri())
