"""The config that is read, and the soup.yaml that grows out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from soup_git.core.yamllines import Where, line_of
from soup_git.migration.rules import UNSET, CannotCarryError, Carried, Code, Lost, Rule, Tool

BASE, DATA = "base", "data.train"
REWARD = "training.reward_fn"
STAND_INS = {BASE: "FILL-IN/base-model", DATA: "data/train.jsonl", REWARD: "rewards.py"}
"""Keys that soup.yaml must have -> what stands there until a person says it."""


_INSTEAD = {
    "training.warmup_steps": {"training.warmup_ratio"},
    "training.epochs": {"training.max_steps"},
    "data.val_split": {"data.validation"},
}
"""Keys whose default means nothing where one of the others is given."""


@dataclass(frozen=True)
class Reading:
    """A config as it was read: nested values, and where each stands."""

    source: str
    values: dict[str, Any]
    lines: Mapping[Where, int]
    cells: Mapping[Where, int] = field(default_factory=dict)
    """For a notebook: the code cell that a key stands in."""
    beside: Callable[[str], Any] = lambda _path: None
    """Reads a JSON or YAML file that the config names, below its folder; None where there is none."""

    def place(self, *where: str | int) -> str:
        line = line_of(dict(self.lines), where)
        cell = next((self.cells[where[:n]] for n in range(len(where), 0, -1)
                     if where[:n] in self.cells), None)  # fmt: skip
        return f"{self.source}:{line}" if cell is None else f"{self.source}:cell {cell}:{line}"

    def get(self, *where: str) -> Any:
        """The value at a key, None where it is missing."""
        value: Any = self.values
        for part in where:
            value = value.get(part) if isinstance(value, dict) else None
        return value


@dataclass
class Draft:
    """What is carried over so far, what is lost, and what soup.yaml refused."""

    reading: Reading
    carried: dict[str, Carried] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    refused: list[Carried] = field(default_factory=list)

    @property
    def task(self) -> str:
        found = self.carried.get("task")
        return str(found.value) if found else "sft"

    def carry(self, to: str, value: Any, *where: str | int, matters: bool = True) -> None:
        """`value` becomes key `to`, because of what stands at `where`."""
        key = ".".join(map(str, where))
        self.carried[to] = Carried(to, value, key, self.reading.place(*where), matters)

    def lose(self, why: str, *where: str | int, matters: bool = True) -> None:
        key = ".".join(map(str, where))
        self.lost.append(Lost(self.reading.place(*where), key, why, matters))

    def stand_in(self, to: str, why: str, *where: str | int) -> None:
        """A key that must be there and that the config does not tell."""
        self.lose(why, *where)
        self.carried[to] = Carried(to, STAND_INS[to])

    def apply(self, rule: Rule, value: Any, *where: str | int) -> None:
        """Do with one value what its rule says."""
        if value is None or rule.together:
            return
        if not rule.to:
            if value not in rule.off or isinstance(value, Code):
                self.lose(rule.why, *where, matters=rule.matters)
            return
        if isinstance(value, Code):
            self.lose(f"is computed by the script, which is not run: {value}", *where,
                      matters=rule.matters)  # fmt: skip
            return
        try:
            converted = rule.how(value) if rule.how else value
        except CannotCarryError as error:
            self.lose(str(error), *where, matters=rule.matters)
            return
        if converted is not UNSET:
            self.carry(rule.to, converted, *where, matters=rule.matters)

    def walk(self, tool: Tool) -> None:
        """Every key of the config by the tool's table."""
        for where, value in _leaves(self.reading.values, tool):
            rule = tool.rule(".".join(where))
            if rule is not None:
                self.apply(rule, value, *where)
            elif value is not None:
                self.lose(f"is not a key that git-soup knows of {tool.title}", *where)

    def fill_in(self, defaults: Mapping[str, Any]) -> None:
        """The other tool's defaults, written out: ours may differ."""
        said = {entry.to for entry in (*self.carried.values(), *self.refused)}
        for to, value in defaults.items():
            if to not in said and not said & _INSTEAD.get(to, set()):
                self.carried[to] = Carried(to, value)

    def refuse(self, to: str, why: str, title: str) -> None:
        """Take out a value that soup.yaml does not take."""
        entry = self.carried.pop(to)
        said = f"{to}: {entry.value}, the default of {title}: {why}"
        why, key = (f"{to}: {why}", entry.key) if entry.key else (said, to)
        self.lost.append(Lost(entry.place or self.reading.place(), key, why, entry.matters))
        self.refused.append(entry)
        if to in STAND_INS:
            self.carried[to] = Carried(to, STAND_INS[to])

    def config(self) -> dict[str, Any]:
        """The soup.yaml so far, nested."""
        nested: dict[str, Any] = {}
        for entry in self.carried.values():
            block = nested
            *above, last = entry.to.split(".")
            for part in above:
                block = block.setdefault(part, {})
            block[last] = entry.value
        return nested


def _leaves(
    values: dict[str, Any], tool: Tool, at: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in values.items():
        where = (*at, str(key))
        if isinstance(value, dict) and tool.has_below(".".join(where)):
            yield from _leaves(value, tool, where)
        else:
            yield where, value
