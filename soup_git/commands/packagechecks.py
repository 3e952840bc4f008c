"""Whether what git-soup stands on is installed, in the versions that pyproject.toml allows.

Read from the metadata of what is installed; nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement

from soup_git.core.checkup import Check, worst
from soup_git.storage.environment import DISTRIBUTION

EXTRAS = {
    "train": "git soup train, verify and profile",
    "quantized": "training.quantization: 4bit or 8bit",
    "eval": "git soup eval, and everything that scores",
    "lm-eval": "suites that ask lm-evaluation-harness",
    "dask": "--scheduler ADDRESS",
}
"""Extra -> what it is for."""


@dataclass(frozen=True)
class _Package:
    requirement: Requirement
    version: str | None

    @property
    def fits(self) -> bool:
        return self.version is not None and self.requirement.specifier.contains(
            self.version, prereleases=True
        )

    def __str__(self) -> str:
        name, wanted = self.requirement.name, self.requirement.specifier
        return f"{name} {self.version}, not {wanted}" if self.version else f"{name} is missing"


def checks(*, trains: bool) -> Iterator[Check]:
    """`trains` says that this place has a training config, so that the extra matters."""
    yield _required()
    for extra, purpose in EXTRAS.items():
        yield _extra(extra, purpose, trains and extra == "train")


def _required() -> Check:
    packages = list(_packages(""))
    wrong = [package for package in packages if not package.fits]
    dvc = next((p.version for p in packages if p.requirement.name == "dvc"), None)
    mine = metadata.version(DISTRIBUTION)
    if wrong:
        return Check(
            "packages", DISTRIBUTION, "problem", f"{mine}; {'; '.join(map(str, wrong))}",
            "git-soup was tested with other versions", f"pip install '{DISTRIBUTION}=={mine}'",
        )  # fmt: skip
    return Check("packages", DISTRIBUTION, "ok", f"{mine}, with DVC {dvc}")


def _extra(extra: str, purpose: str, wanted: bool) -> Check:
    packages = list(_packages(extra))
    wrong = [package for package in packages if not package.fits]
    fix = f"pip install '{DISTRIBUTION}[{extra}]'"
    name = f"extra {extra}"
    if all(package.version is None for package in packages):
        return Check(
            "packages", name, worst(wanted, "warning"), "not installed", f"for {purpose}", fix
        )
    if not wrong:
        shown = [
            p for p in packages if p.requirement.name in {"torch", "transformers", "trl", "peft"}
        ]
        versions = ", ".join(f"{p.requirement.name} {p.version}" for p in shown)
        return Check("packages", name, "ok", versions or "installed")
    missing = all(package.version is None for package in wrong)
    # Another extra's packages may be some of this one's: missing is no mistake, unfit is.
    state = worst(wanted or not missing, "warning" if missing else "problem")
    found = "; ".join(map(str, wrong))
    return Check("packages", name, state, found, f"for {purpose}", fix)


def _packages(extra: str) -> Iterator[_Package]:
    """What an extra brings directly and by the extras it names; `""` is what is always needed."""
    waiting, seen = [extra], set()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        for line in metadata.requires(DISTRIBUTION) or []:
            requirement = Requirement(line)
            marker = requirement.marker
            here = marker is None if not current else (
                marker is not None
                and marker.evaluate({"extra": current})
                and not marker.evaluate({"extra": ""})
            )  # fmt: skip
            if not here:
                continue
            if requirement.name == DISTRIBUTION:
                waiting += [e for e in requirement.extras if e not in seen]
                continue
            yield _Package(requirement, _version(requirement.name))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
