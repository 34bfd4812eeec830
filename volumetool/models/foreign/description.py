"""The description of a package of the BioImage Model Zoo, as far as it is used here, in versions 0.4 and 0.5."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from volumetool.configuration import NO_YAML, explain, parse_yaml
from volumetool.models.foreign.processing_steps import NAMES, Processing
from volumetool.models.foreign.program import unusable

DESCRIPTIONS = ("rdf.yaml", "bioimageio.yaml", "model.yaml")
"""Names of the description in a package."""

HINT = "fetch the package again, or ask its authors; `bioimageio validate` of the package bioimageio.core tells more"


def _file(value: Any) -> Any:
    """Return a file as version 0.5 writes it: 0.4 has its name alone."""
    return {"source": value} if isinstance(value, str) else value


class Stored(BaseModel):
    """A file of a package.

    Parameters
    ----------
    source : str
        Its name in the package.
    sha256 : str or None
        Its digest.
    external_data : Stored or None
        Weights of an ONNX file that lie beside it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    source: str
    sha256: str | None = None
    external_data: Annotated[Stored, BeforeValidator(_file)] | None = None


StoredFile = Annotated[Stored, BeforeValidator(_file)]


class SizeOf(BaseModel):
    """The size of an axis: a least one and a step, or that of another axis."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    min: int = Field(1, ge=1)
    step: int = Field(1, ge=0)
    offset: float = 0


class Axis(BaseModel):
    """An axis of version 0.5."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: str
    id: str = ""
    size: int | SizeOf | None = None
    halo: int = Field(0, ge=0)
    channel_names: tuple[str, ...] = ()


class Shape(BaseModel):
    """A shape of version 0.4: least sizes and steps."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    min: tuple[int, ...] = ()
    step: tuple[int, ...] = ()


class Tensors(BaseModel):
    """An input or an output, of both versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    axes: str | tuple[Axis, ...]
    shape: tuple[int, ...] | Shape | None = None
    halo: tuple[int, ...] = ()
    test_tensor: StoredFile | None = None
    steps: tuple[Processing, ...] = Field((), validation_alias=AliasChoices("preprocessing", "postprocessing"))

    @property
    def letters(self) -> str:
        """Its axes as letters; ``?`` stands for one of time, instances and the like."""
        if isinstance(self.axes, str):
            return "".join(letter if letter in "bczyx" else "?" for letter in self.axes)
        # A space axis without a name is x: so the specification says, and so files are written that leave defaults out.
        ids = ((axis.id or "x") if axis.type == "space" else axis.type for axis in self.axes)
        return "".join(NAMES.get(each, "?") for each in ids)

    @property
    def sections(self) -> bool:
        """Whether its channels are neighbouring sections."""
        names = [name for axis in self.axes if isinstance(axis, Axis) for name in axis.channel_names]
        return bool(names) and all(name.startswith("section") for name in names)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Return the least size and the step of each axis; a size that is fixed has step 0, one that is not said (1, 1)."""
        if isinstance(self.axes, str):
            shape = self.shape or Shape()
            pairs = [(size, 0) for size in shape] if isinstance(shape, tuple) else [*zip(shape.min, shape.step, strict=True)]
        else:
            pairs = [_pair(axis) for axis in self.axes]
        return dict(zip(self.letters, pairs, strict=False))


def _pair(axis: Axis) -> tuple[int, int]:
    if axis.type == "channel":
        return len(axis.channel_names), 0
    if isinstance(axis.size, int):
        return axis.size, 0
    return (1, 1) if axis.size is None else (axis.size.min, axis.size.step)


class Description(BaseModel):
    """What a package says of itself, as far as it is used; both versions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    inputs: tuple[Tensors, ...]
    outputs: tuple[Tensors, ...]
    weights: dict[str, StoredFile | None]
    test_inputs: tuple[StoredFile, ...] = ()
    test_outputs: tuple[StoredFile, ...] = ()

    @property
    def tests(self) -> tuple[Stored, ...]:
        """Its test tensors: those of its inputs, then those of its outputs."""
        own = [each.test_tensor for each in (*self.inputs, *self.outputs)]
        return (*(each for each in own if each is not None), *self.test_inputs, *self.test_outputs)

    def files(self, formats: Sequence[str]) -> list[str]:
        """Return the names of its test tensors and of its weights of some formats."""
        weights = [self.weights[name] for name in formats if self.weights.get(name) is not None]
        stored = [*weights, *(each.external_data for each in weights if each is not None), *self.tests]
        return list(dict.fromkeys(each.source for each in stored if each is not None))


def read_description(path: Path, text: bytes) -> Description:
    """Read a description.

    Parameters
    ----------
    path : Path
        The package, for messages.
    text : bytes
        YAML.

    Raises
    ------
    ModelError
        ``model.broken``.
    """
    try:
        content = parse_yaml(text)
        kind, version = str(content.get("type")), str(content.get("format_version"))
    except NO_YAML as error:
        raise unusable(path, f"its description cannot be read: {str(error)[:300]}", HINT) from error
    if kind != "model":
        raise unusable(path, f"it describes a {kind[:50]}, not a model", HINT)
    if not version.startswith(("0.4.", "0.5.")):
        raise unusable(
            path,
            f"its description has version {version[:20]}; 0.4 and 0.5 are read",
            "`bioimageio update-format` of the package bioimageio.core writes it anew",
        )
    try:
        return Description.model_validate(content)
    except ValidationError as error:
        raise unusable(path, f"its description does not hold: {explain(error, Description)[:600]}", HINT) from error


def check_name(path: Path, name: str) -> None:
    """Refuse the name of a file that leads out of a package, or to another machine.

    Raises
    ------
    ModelError
        ``model.broken``.
    """
    if "://" in name:
        raise unusable(
            path,
            f"its file {name[:200]} lies elsewhere; nothing is fetched",
            "fetch the package as a zip file, which holds all of it",
        )
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name or ":" in parts[0] or not name.isprintable():
        raise unusable(path, f"its file {name[:200]!r} would lie outside of it", HINT)
