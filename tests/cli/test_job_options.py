"""Options of a job are declared once: command lines have all of them, `--help` shows few and `--help-all` the rest."""

from __future__ import annotations

import pytest
from typer.main import get_command
from typer.testing import CliRunner
from volumetool.cli.main import app

from volumetool.jobs.job import RUN, Job

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
DECLARED = {name: field for name, field in Job.model_fields.items() if name not in ("input", "output")}


def test_enhance_takes_every_option_of_a_job_and_live_all_but_those_of_a_run() -> None:
    run = {name for name, field in DECLARED.items() if field.json_schema_extra["panel"] == RUN}  # type: ignore[index,call-overload]
    assert len(run) > 5
    for command, names in (("enhance", DECLARED.keys()), ("live", DECLARED.keys() - run)):
        parameters = {parameter.name: parameter for parameter in COMMANDS[command].params}
        assert names <= parameters.keys()
        assert not (DECLARED.keys() - names) & parameters.keys()
        for name in names:
            assert parameters[name].help == DECLARED[name].description
            assert parameters[name].opts == [f"--{name.rstrip('_').replace('_', '-')}"]


@pytest.mark.parametrize("command", ["enhance", "live"])
def test_help_shows_what_most_people_need_and_help_all_the_rest(command: str) -> None:
    run = CliRunner()
    short, full = (run.invoke(app, [command, option], env={"COLUMNS": "80"}).output for option in ("--help", "--help-all"))
    parameters = [parameter for parameter in COMMANDS[command].params if parameter.opts[0].startswith("--")]
    hidden = [parameter.opts[0] for parameter in parameters if parameter.hidden]
    assert len(hidden) > 15
    assert not [option for option in hidden if f"{option} " in short]
    assert not [parameter.opts[0] for parameter in parameters if f"{parameter.opts[0]} " not in full]
    if command == "enhance":
        assert short.count("\n") < 40


def test_a_default_is_told_once_it_is_no_plain_none_or_no() -> None:
    full = CliRunner().invoke(app, ["enhance", "--help-all"], env={"COLUMNS": "200"}).output
    assert "[default: (600.0)]" in full
    assert "metadata|stored|strict" in full
