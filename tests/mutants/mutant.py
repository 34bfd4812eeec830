"""A mutant: a plausible bug, and the tests that must notice it."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Mutant:
    """A bug, and who must notice it.

    Attributes
    ----------
    name : str
        What is wrong, in a few words.
    file : str
        Below the repository.
    old, new : str
        A passage that occurs once in the file, and what takes its place.
    killers : tuple of str
        Files or nodes of fast tests, of which at least one must fail.
    """

    name: str
    file: str
    old: str
    new: str
    killers: tuple[str, ...]

    def applied(self, root: Path = ROOT) -> str:
        """Return the file's text with the bug in it.

        Raises
        ------
        LookupError
            The passage does not occur once, or the file is no Python any more: this table is stale.
        """
        text = (root / self.file).read_text()
        if (times := text.count(self.old)) != 1:
            raise LookupError(
                f"mutant '{self.name}': its passage occurs {times} times in {self.file}; bring the table up to date"
            )
        mutated = text.replace(self.old, self.new)
        try:
            same = ast.dump(ast.parse(mutated)) == ast.dump(ast.parse(text))
        except SyntaxError as error:
            raise LookupError(f"mutant '{self.name}': {self.file} would be no Python: {error}") from error
        if same:
            raise LookupError(f"mutant '{self.name}' changes nothing in {self.file}")
        return mutated


def table(file: str, *rows: tuple[str, str, str, str]) -> tuple[Mutant, ...]:
    """Return the mutants of one file; each row is name, old text, new text, and killers with spaces between them."""
    return tuple(
        Mutant(name, file, old, new, tuple(f"tests/{killer}" for killer in killers.split())) for name, old, new, killers in rows
    )
