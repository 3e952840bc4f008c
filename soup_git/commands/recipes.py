"""`git soup recipes list|show|search|use`: settings for named models, with their sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from soup_git.commands.newconfig import refuse_existing, target_of
from soup_git.core.yamllines import nearest
from soup_git.errors import ExitCode, FatalError
from soup_git.render.report import Table
from soup_git.storage.files import write_atomically
from soup_git.training.recipes import Recipe, recipes


@dataclass(frozen=True)
class RecipesReport:
    schema: ClassVar[str] = "soup.recipes/1"
    recipes: list[dict[str, Any]]

    def tables(self) -> Sequence[Table | str]:
        rows = [
            (r["name"], r["base"], r["task"], f"{r['parameters']:g} B", _rank(r), r["licence"])
            for r in self.recipes
        ]
        after = "git soup recipes show NAME has the values and where they are from"
        header = ("recipe", "base", "task", "size>", "lora", "licence")
        return [Table(header, rows, after=after)] if rows else ["no recipe fits"]


def _rank(recipe: dict[str, Any]) -> str:
    return f"r{recipe['training']['lora']['r']}"


@dataclass(frozen=True)
class RecipeReport:
    schema: ClassVar[str] = "soup.recipe/1"
    recipe: dict[str, Any]
    config: str
    output: str | None = None
    """Where the config was written."""

    def tables(self) -> Sequence[Table | str]:
        if self.output is None:
            return self.config.rstrip("\n").split("\n")
        return [
            f"{self.output} written from recipe {self.recipe['name']}",
            "Next: put rows into data/train.jsonl, or another path into data.train",
        ]


def listed() -> RecipesReport:
    return RecipesReport([_fields(recipe) for recipe in recipes().values()])


def search(words: Sequence[str], task: str | None) -> tuple[RecipesReport, ExitCode]:
    """Recipes whose name, base, licence, task or note has every word; exit 1 when there is none."""
    found = [
        recipe
        for recipe in recipes().values()
        if (task is None or recipe.task == task)
        and all(word.lower() in _said(recipe) for word in words)
    ]
    report = RecipesReport([_fields(recipe) for recipe in found])
    return report, ExitCode.OK if found else ExitCode.CHECK_FAILED


def show(name: str) -> RecipeReport:
    recipe = _recipe(name)
    return RecipeReport(_fields(recipe), recipe.text())


def use(name: str, output: Path | None, *, force: bool = False) -> RecipeReport:
    """Write the recipe's soup.yaml; one that is there is not replaced unless `force`."""
    recipe = _recipe(name)
    destination = target_of(output)
    if not force:
        refuse_existing(destination, "git soup recipes use --force replaces it, -o FILE leaves it")
    text = recipe.text()
    write_atomically(destination, text.encode())
    return RecipeReport(_fields(recipe), text, str(destination))


def _recipe(name: str) -> Recipe:
    known = recipes()
    if name not in known:
        raise FatalError(
            f"there is no recipe {name!r}{nearest(name, known)}", hint="git soup recipes list"
        )
    return known[name]


def _said(recipe: Recipe) -> str:
    parts = (recipe.name, recipe.base, recipe.licence, recipe.task, recipe.note)
    return " ".join([*parts, f"{recipe.parameters:g}b"]).lower()


def _fields(recipe: Recipe) -> dict[str, Any]:
    return {**asdict(recipe), "card": recipe.card, "hardware": recipe.hardware}
