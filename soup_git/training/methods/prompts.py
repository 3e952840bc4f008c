"""Learning from rewards: prompts to tokens, and the rewards that soup.yaml names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from soup_git.core.yamllines import Where, nearest
from soup_git.data.rows import BadRowError, DataRow, Row
from soup_git.training import adapter, upstream
from soup_git.training.methods.files import inside, sha256
from soup_git.training.prepared import Encoded, Example, Reading
from soup_git.training.rewards.asked import Asked, Reward
from soup_git.training.rewards.byrule import DOMAINS, RULES, Rule
from soup_git.training.rewards.workspacefile import WorkspaceReward
from soup_git.training.schema import SoupConfig
from soup_git.training.tokens import prompted

NAMES = ("accuracy", "format", "verifiable")

# grpo_variant -> what it is of TRL's trainer.
VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "bnpo": {"loss_type": "bnpo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "two_sided": {"loss_type": "grpo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "vespo": {"loss_type": "vespo"},
}


# Variants that differ in what they make of the ratio of new to old probability only, which is 1
# in the one step that an answer is used for -> the variant that they amount to.
SAME_FOR_ONE_STEP = {
    "gspo": "standard",
    "two_sided": "standard",
    "sapo": "standard",
    "cispo": "dapo",
    "vespo": "dapo",
}


def question(row: DataRow, reading: Reading) -> Example:
    """The prompt, which the model answers by itself; the row goes to the rewards."""
    asked = as_asked(row)
    text, ids = prompted(row, asked["prompt"], reading)
    values = {"text": text, "place": row.place, "row": asked}
    return Example({"prompt": Encoded(ids, [False] * len(ids))}, values)


def as_asked(row: DataRow) -> Row:
    """The row with a prompt; of an answered one the last answer is what is right."""
    values = row.values
    if "messages" in values:
        *before, last = values["messages"]
        rest = {k: v for k, v in values.items() if k != "messages"}
        return {**rest, "prompt": before, "answer": last.get("content") or ""}
    if "completion" in values:
        answer = values["completion"]
        answer = answer if isinstance(answer, str) else answer[-1].get("content") or ""
        rest = {k: v for k, v in values.items() if k != "completion"}
        return {**rest, "answer": answer}
    return values


def columns(examples: Sequence[Example], _reading: Reading) -> dict[str, list[Any]]:
    """As TRL's trainers of rewards read them; what the rewards read is looked up by the place."""
    return {
        "prompt": [example.values["text"] for example in examples],
        "prompt_ids": [example.parts["prompt"].ids for example in examples],
        "place": [example.values["place"] for example in examples],
    }


# ---- options ----------------------------------------------------------------------------------


def variant(config: SoupConfig) -> dict[str, Any]:
    """TRL's options for `grpo_variant`."""
    training = config.training
    options = dict(VARIANTS[training.grpo_variant]) if training.grpo_variant else {}
    if training.grpo_delta is not None:
        options["delta"] = training.grpo_delta
    return options


def named(config: SoupConfig) -> list[str]:
    """The rewards by the names that soup.yaml has for them."""
    rewards = config.training.reward_fn
    return [rewards] if isinstance(rewards, str) else list(rewards or ())


def check(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """What is rewarded, and how often, goes together."""
    training = config.training
    if training.reward_fn is None and training.reward_model is None:
        yield ("task",), f"{config.task} needs training.reward_fn or training.reward_model"
    yield from _check_names(config)
    domain = training.verifiable_domain
    if "verifiable" in named(config) and domain is None:
        where = ("training", "reward_fn")
        yield where, f"verifiable needs verifiable_domain: {', '.join(DOMAINS)}"
    if domain is not None and "verifiable" not in named(config):
        yield ("training", "verifiable_domain"), "is for reward_fn: verifiable"
    if domain == "json_schema" and not upstream.installed("jsonschema"):
        where = ("training", "verifiable_domain")
        yield where, "json_schema needs jsonschema: pip install 'git-soup[eval]'"
    if (training.grpo_variant == "two_sided") != (training.grpo_delta is not None):
        key = "grpo_variant" if training.grpo_delta is None else "grpo_delta"
        yield ("training", key), "grpo_variant: two_sided and grpo_delta need each other"
    for option in VARIANTS.get(training.grpo_variant or "", {}):
        if option in training.trl and option not in config.method.refuses:
            yield ("training", "trl", option), f"grpo_variant: {training.grpo_variant} sets it"
    yield from _check_sizes(config, given)


def variant_here(config: SoupConfig) -> list[str]:
    """What a variant amounts to where each answer is used for one step."""
    name = config.training.grpo_variant
    if name not in SAME_FOR_ONE_STEP:
        return []
    same = SAME_FOR_ONE_STEP[name]
    return [
        f"grpo_variant {name}: each answer is used for one step, where it learns as {same} does"
    ]


def _check_names(config: SoupConfig) -> Iterator[tuple[Where, str]]:
    where: Where = ("training", "reward_fn")
    for name in named(config):
        if name.endswith(".py"):
            parts = PurePosixPath(name).parts
            if parts[0] == "/" or ".." in parts:
                yield where, f"{name} is not a file inside the workspace"
        elif name not in NAMES:
            yield where, f"{name} is none of {', '.join(NAMES)}, nor FILE.py{nearest(name, NAMES)}"
    path = config.training.reward_model
    if path is not None and (
        PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
    ):
        yield ("training", "reward_model"), f"{path} is not a folder inside the workspace"


def _check_sizes(config: SoupConfig, given: set[Where]) -> Iterator[tuple[Where, str]]:
    """A step generates whole groups, and a checkpoint lies between two generations."""
    training, trl = config.training, config.training.trl
    if training.batch_size == "auto":
        what = "answers are generated in whole groups of num_generations: give a multiple of it"
        yield ("training", "batch_size"), f"task {config.task} takes no auto: {what}"
        return
    if training.launcher != "none" and training.num_processes is None:
        return  # how many there are is known when they start; TRL counts them then
    processes = training.num_processes or 1
    group = training.num_generations or (8 if config.task == "grpo" else 2)
    per_generation = trl.get("steps_per_generation", training.gradient_accumulation_steps)
    step = training.batch_size * training.gradient_accumulation_steps * processes
    batch = trl.get("generation_batch_size", training.batch_size * per_generation * processes)
    blamed = "num_generations" if ("training", "num_generations") in given else "batch_size"
    if not all(isinstance(n, int) and n > 0 for n in (per_generation, batch)):
        return  # TRL's own check says it better
    if batch % group:
        what = f"{batch} answers are generated at once, which is not a multiple of {group}"
        yield ("training", blamed), f"{what} (num_generations)"
    if trl.get("num_iterations", 1) != 1 or batch != step:
        where = ("training", "trl")
        yield where, "answers that last for several steps could not be resumed to the same bytes"


# ---- rows and rewards -------------------------------------------------------------------------


def rules(config: SoupConfig) -> list[Rule]:
    """Those of the rewards that are rules."""
    domain = config.training.verifiable_domain
    names = [domain if name == "verifiable" else name for name in named(config)]
    return [RULES[name] for name in names if name in RULES]


def check_row(row: DataRow, config: SoupConfig) -> None:
    """Raises BadRowError where a rule lacks what it needs of the row."""
    asked = as_asked(row)
    if not asked["prompt"]:
        raise BadRowError("there is no turn before the answer, so nothing is asked")
    for rule in rules(config):
        rule.check_row(asked)


def inputs(config: SoupConfig, root: Path) -> dict[str, str]:
    """Files that decide what is learnt beside the data, by what they are: sha256 of each."""
    found = {}
    for name in named(config):
        if name.endswith(".py"):
            path = inside(config, "training.reward_fn", root, name)
            if not path.is_file():
                raise config.refuse("training.reward_fn", f"{name} is not a file")
            found[name] = sha256(path)
    model = config.training.reward_model
    if model is not None:
        path = inside(config, "training.reward_model", root, model) / adapter.WEIGHTS
        if not path.is_file():
            raise config.refuse(
                "training.reward_model",
                f"{model} has no {adapter.WEIGHTS}",
                hint="task reward_model trains one; git soup checkout restores it",
            )
        found[model] = sha256(path)
    return found


def equip(model: Any, reading: Reading, examples: Sequence[Example]) -> dict[str, Any]:
    """The rewards, as functions that TRL calls with lists of columns."""
    config = reading.config
    found: list[Reward] = list(rules(config))
    for name in named(config):
        if name.endswith(".py"):
            reward = WorkspaceReward(name, reading.root, config.training.reward_timeout)
            reward.start()
            found.append(reward)
    if config.training.reward_model is not None:
        from soup_git.training.rewards.bymodel import ModelReward

        found.append(ModelReward(config.training.reward_model, model, reading))
    if reading.tokenizer.pad_token is None:
        reading.tokenizer.pad_token = reading.tokenizer.eos_token
    rows = {example.values["place"]: example.values["row"] for example in examples}
    return {"reward_funcs": [_as_trl_calls_it(reward, rows) for reward in found]}


def _as_trl_calls_it(reward: Reward, rows: dict[str, Row]) -> Callable[..., list[float]]:
    def call(*, completions: list[str], place: list[str], **_: Any) -> list[float]:
        pairs = zip(place, completions, strict=True)
        return reward([Asked(where, rows[where], text) for where, text in pairs])

    call.__name__ = reward.name
    return call
