"""Which calls of an Unsloth script configure something, as one `Reading`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from soup_git.core.yamllines import Where
from soup_git.errors import FatalError
from soup_git.migration.draft import Reading
from soup_git.migration.pythonscript import UNREAD, Call, UnreadableError, calls
from soup_git.migration.unsloth import TRAINERS

_CHANGES_ROWS = {"map", "filter", "select", "train_test_split"}


def script(name: str, text: str, *, notebook: bool) -> Reading:
    """The settings of a script; raises FatalError where it is none of Unsloth's."""
    found = _Settings()
    try:
        for call in calls(text, notebook=notebook):
            found.take(call)
    except UnreadableError as error:
        raise FatalError(f"{name}: {error}", hint=f"head {name}") from None
    if "from_pretrained" not in found.values:
        unread = [cell for where, cell in found.cells.items() if where[:1] == ("unread_cells",)]
        if unread:
            raise FatalError(
                f"{name}: cell {unread[0]}: {found.values['unread_cells'][0]}",
                hint="git soup migrate under the Python that the notebook is for reads it",
            )
        raise FatalError(
            f"{name} calls no FastLanguageModel.from_pretrained: it is no script of Unsloth",
            hint=f"grep -n from_pretrained {name}",
        )
    return Reading(name, found.values, found.lines, found.cells)


@dataclass
class _Settings:
    """What the calls said so far. Of two calls of a kind the first counts: notebooks go on to
    load and try what they trained."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Where, int] = field(default_factory=dict)
    cells: dict[Where, int] = field(default_factory=dict)

    def take(self, call: Call) -> None:
        section = _section(call)
        if call.name == UNREAD:
            self._add("unread_cells", call.positional[0], call)
        elif section is None:
            self._rows(call)
        elif section not in self.values:
            self._settings(call, section)
        elif section == "trainer":
            self._add("more_trainings", call.name, call)

    def _settings(self, call: Call, section: str) -> None:
        given = dict(call.keywords)
        if section == "from_pretrained" and call.positional:
            given.setdefault("model_name", call.positional[0])
        self.values[section] = given
        self._note(call, section)
        for key in given:
            self._note(call, section, key, line=call.lines.get(key, 0))
        if section == "trainer":
            self.values["trainer_class"] = call.name
            self._note(call, "trainer_class")
        if section == "train_on_responses_only":
            self.values["responses_only"] = True
            self._note(call, "responses_only")

    def _rows(self, call: Call) -> None:
        if call.method == "load_dataset":
            path = call.keywords.get("path", call.positional[0] if call.positional else None)
            self._add("load_dataset", (path, call.keywords.get("data_files")), call)
        elif call.method in _CHANGES_ROWS and "data" in call.name:
            self._add("changed_rows", call.name, call)

    def _add(self, key: str, value: Any, call: Call) -> None:
        listed = self.values.setdefault(key, [])
        self._note(call, key, len(listed))
        listed.append(value)

    def _note(self, call: Call, *where: str | int, line: int = 0) -> None:
        self.lines[where] = line or call.line
        if call.cell is not None:
            self.cells[where] = call.cell


def _section(call: Call) -> str | None:
    """Which block of settings a call's arguments are."""
    owner = call.name.rpartition(".")[0]
    if call.method == "from_pretrained":
        return "from_pretrained" if owner.startswith("Fast") else None
    if call.method in ("get_peft_model", "get_chat_template", "train_on_responses_only"):
        return call.method
    if call.name in TRAINERS:
        return "trainer"
    if call.name.endswith("Config") and f"{call.name[:-6]}Trainer" in TRAINERS:
        return "args"
    return "args" if call.name.endswith("TrainingArguments") else None
