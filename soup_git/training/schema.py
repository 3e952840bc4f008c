"""What a `soup.yaml` may say: the pydantic model, one docstring per key.

The keys and their nesting are the original tool's. The docstrings become the descriptions
that editors show, by way of `json_schema`.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, PrivateAttr, model_validator
from pydantic_core import PydanticCustomError

from soup_git.core.yamllines import Where, line_of, place
from soup_git.data.formats import ALIASES, FORMATS
from soup_git.errors import FatalError
from soup_git.training.choosing import chosen, with_defaults
from soup_git.training.taskoptions import (
    STRICT,
    DistillOptions,
    EmbeddingOptions,
    LabelOptions,
    PreferenceOptions,
    RewardOptions,
    StepOptions,
)
from soup_git.training.tasks import TASKS, Task

# Inits that subtract their product from the base's weights. Such an adapter is saved
# converted, so that it loads on the untouched base (training/adapter.py).
MUTATING_INITS = ("pissa", "olora", "corda")
NITER = re.compile(r"pissa_niter_([1-9]\d{0,2})")
# Inits that look at the training rows before the first step (training/lora/inits.py).
DATA_INITS = ("eva", "corda")
INITS = ("random", "gaussian", "orthogonal", "pissa", "olora", "eva", "corda", "loftq")
# Formats that a base on the hub can come in already; `hqq` and the like need no bits here,
# because the base's own config.json has them (training/quantized.py).
PREQUANTIZED = (
    *("aqlm", "auto-round", "awq", "bitsandbytes", "compressed-tensors", "eetq", "fp8", "gptq"),
    *("hqq", "mxfp4", "quanto", "torchao"),
)


# What Llama's own templates print where there is no clock.
TEMPLATE_DATE = "2024-07-26"


def _a_day(value: str) -> str:
    try:
        day = date.fromisoformat(value)
    except ValueError as error:
        raise PydanticCustomError(
            "day", "should be a day, YYYY-MM-DD: {why}", {"why": str(error)}
        ) from None
    return day.isoformat()


Rank = Annotated[int, Field(ge=1, le=1024)]
Pattern = Annotated[dict[str, Rank], Field(max_length=256)]
Names = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]


class _Block(BaseModel):
    model_config = STRICT


class LoraBlock(_Block):
    """PEFT's LoRA under the original tool's names; what is missing here goes under `peft`."""

    r: Rank = 16
    """Rank."""
    alpha: Annotated[int, Field(ge=1)] = 32
    """The update is scaled by alpha / r (alpha / sqrt(r) with use_rslora)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Dropout on the input of the A matrices."""
    target_modules: Annotated[str, Field(min_length=1)] | Names = "all-linear"
    """`all-linear`, `auto` (PEFT's choice for the architecture), names, or a regular expression."""
    exclude_modules: Annotated[str, Field(min_length=1)] | Names | None = None
    """Names, or a regular expression, of modules left alone."""
    modules_to_save: Names | None = None
    """Modules trained and saved in full beside the adapter."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases of the base train as well."""
    use_dora: bool = False
    """Weight-decomposed LoRA (https://arxiv.org/abs/2402.09353)."""
    use_rslora: bool = False
    """Rank-stabilised scaling (https://arxiv.org/abs/2312.03732)."""
    use_vera: bool = False
    """VeRA: random matrices that all modules share, two vectors per module train."""
    use_vblora: bool = False
    """VB-LoRA: factors are put together from a bank of vectors that all modules share."""
    use_olora: bool = False
    """The original tool's name for init_strategy: olora."""
    init_strategy: Annotated[str, Field(pattern=rf"^({'|'.join(INITS)}|{NITER.pattern})$")] = (
        "random"
    )
    """Where A and B start; pissa_niter_N is pissa by a fast SVD of N iterations."""
    loftq_bits: Annotated[int, Field(ge=1)] = 4
    """For init_strategy: loftq, the bits that the base is loaded in: 4."""
    loftq_iter: Annotated[int, Field(ge=1)] = 1
    """For init_strategy: loftq: 1; a second round would move the 4-bit base itself."""
    rank_pattern: Pattern = {}
    """Module name or pattern -> rank, where it differs from r."""
    alpha_pattern: Pattern = {}
    """Module name or pattern -> alpha, where it differs from alpha."""
    layers_to_transform: Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] | None = (
        None
    )
    """Indices of the layers that get an adapter; all by default."""
    layers_pattern: str | Names | None = None
    """Name of the list of layers, where PEFT does not know it."""
    target_parameters: Names | None = None
    """Raw parameters (fused experts) to adapt, by name."""
    peft: dict[str, Any] = {}
    """Any other option of PEFT's LoraConfig, by its own name."""

    @property
    def init(self) -> str:
        """The init strategy, whichever way it was asked for."""
        return "olora" if self.use_olora else self.init_strategy

    @property
    def mutates_base(self) -> bool:
        return self.init.startswith(MUTATING_INITS)

    @property
    def kind(self) -> Literal["lora", "vera", "vblora"]:
        """The PEFT method that this block configures."""
        return "vera" if self.use_vera else "vblora" if self.use_vblora else "lora"


class DataBlock(_Block):
    """Where the rows are and how they are read."""

    train: Annotated[str, Field(min_length=1)]
    """A .jsonl, .json or .txt file of the workspace, or a folder of them."""
    format: Literal[(*FORMATS, *ALIASES, "auto")] = "auto"  # type: ignore[valid-type]
    """The format of a row; `auto` detects it and says what it found."""
    validation: Annotated[str, Field(min_length=1)] | None = None
    """A file or folder of validation rows, instead of a split."""
    val_split: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Share of rows held out. A row's own digest decides, so its place in the file does not."""
    max_length: Annotated[int, Field(ge=8, le=1 << 20)] = 2048
    """Tokens of a row beyond this are cut off, and counted in the report. A base with a table of
    positions (BERT, GPT-2) has it shorter by default: as long as that."""
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    """The tokenizer's own by default; a name (chatml, qwen3, ...); or a .jinja file."""
    template_date: Annotated[str, AfterValidator(_a_day)] | None = None
    """The day, YYYY-MM-DD, that a chat template which prints today's date takes for today
    (2024-07-26): it may not come from a clock, which goes on."""
    max_rows: Annotated[int, Field(ge=1)] | None = None
    """Only the first rows."""


class EvalGateBlock(_Block):
    """Score the adapter while it trains, and act when it regresses (docs/howto/evaluate.md)."""

    suite: Annotated[str, Field(min_length=1)]
    """The suite, a YAML file of the workspace. Its `gate:` blocks hold the thresholds."""
    every_n_epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """After every so many epochs."""
    on_regression: Literal["stop", "warn", "continue"] = "stop"
    """stop: end the training, which fails. warn: say so. continue: only show the scores."""
    baseline: Annotated[str, Field(min_length=1)] | None = None
    """What drops are measured from: an adapter spec (a revision), or `base`; else the suite's."""


class TrainingBlock(
    PreferenceOptions,
    RewardOptions,
    LabelOptions,
    DistillOptions,
    StepOptions,
    EmbeddingOptions,
    _Block,
):
    """How to train. Options of TRL's config class that are missing here go under `trl`."""

    epochs: Annotated[float, Field(gt=0, le=10_000)] = 3
    """Passes over the training rows."""
    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many optimizer steps, whatever epochs says."""
    lr: Annotated[float, Field(gt=0)] = 2e-4
    """Peak learning rate. Some tasks start lower: see the table of training methods."""
    scheduler: str = "cosine"
    """A scheduler's name in transformers."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the steps that warm up (0.03 unless warmup_steps is given)."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps that warm up."""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = 8
    """Rows per forward pass. auto: stage train finds how many fit and writes the number here."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    """Forward passes per optimizer step."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this norm; 0 turns clipping off."""
    optimizer: str = "adamw_torch"
    """An optimizer's name in transformers. The plain AdamW: the fused one has another digest."""
    loraplus_lr_ratio: Annotated[float, Field(gt=0)] | None = None
    """LoRA+: the B matrices learn at this many times lr (https://arxiv.org/abs/2402.12354)."""
    loraplus_lr_embedding: Annotated[float, Field(gt=0)] = 1e-6
    """With LoRA+, the learning rate of adapted embeddings."""
    relora_steps: Annotated[int, Field(ge=1)] | None = None
    """Every so many steps, prune the factors or merge and restart them (relora_mode)."""
    relora_mode: Literal["prune", "merge"] = "prune"
    """prune: zero the smallest entries. merge: the paper's restart; the adapter's rank grows."""
    relora_warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Nothing fires in this first share of the steps."""
    relora_prune_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """prune: share of a factor's entries set to zero (0.9). merge: share of the optimizer's
    state set to zero, at random (0.999)."""
    relora_reset_optimizer: bool = True
    """Clear the optimizer's state too: of the pruned entries, or of relora_prune_ratio."""
    relora_restart_warmup: Annotated[int, Field(ge=0)] | None = None
    """merge: steps in which the learning rate comes back after a restart (relora_steps / 10)."""
    freeze_layers: Annotated[int, Field(ge=1)] | None = None
    """The first so many layers get no adapter."""
    freeze_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The first so large a share of the layers gets no adapter."""
    neftune_alpha: Annotated[float, Field(gt=0)] | None = None
    """Noise on embeddings (https://arxiv.org/abs/2310.05914)."""
    packing: bool = False
    """Fill each sequence with several rows. That none sees another is checked before training."""
    assistant_only_loss: bool = True
    """Only what the assistant says is learnt (for prompt/completion rows: the completion)."""
    gradient_checkpointing: bool = False
    """Trade time for memory."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """auto: bf16 or fp16 on a GPU, fp32 on a CPU. What it became is recorded in the run."""
    quantization: Literal["none", "4bit", "8bit", *PREQUANTIZED] = "none"  # type: ignore[valid-type]
    """4bit, 8bit: load the base so (bitsandbytes). A format's name: the base must be in it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    launcher: Literal["none", "accelerate"] = "none"
    """accelerate: several processes of this machine train one adapter, each with its share of
    the rows (docs/howto/many-gpus.md)."""
    num_processes: Annotated[int, Field(ge=1, le=64)] | None = None
    """With a launcher: how many processes; default: as many as there are GPUs. batch_size is
    that of each."""
    fsdp: Literal["full_shard", "shard_grad", "full_offload"] | None = None
    """With a launcher: split the model among the GPUs (FSDP2); shard_grad keeps the weights
    together between forward and backward, full_offload keeps them in the machine's memory."""
    fsdp_layers: Names | None = None
    """Class names of the layers that fsdp splits; default: those that the base names."""
    fsdp_min_num_params: Annotated[int, Field(ge=1)] | None = None
    """For fsdp, instead of layers: split whatever has at least so many parameters."""
    deepspeed: Literal["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"] | None = None
    """With a launcher: split the optimizer's state (zero1), the gradients too (zero2), and the
    model (zero3) among the processes; _offload keeps it in the machine's memory."""
    deepspeed_zero: dict[str, Any] = {}
    """Any other option of DeepSpeed's zero_optimization, by its own name."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    """Decides init, order and dropout."""
    reproducible: Literal["exact", "portable"] = "exact"
    """exact: same machine kind, same bytes. portable: also across CPU kinds, about half as fast."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads. They decide the bytes, so the count is recorded; default: the CPUs given."""
    save_steps: Annotated[int, Field(ge=1)] = 100
    """A checkpoint, and its commit, every so many steps; the last step always has one."""
    save_total_limit: Annotated[int, Field(ge=1)] = 2
    """How many checkpoints keep what resuming needs (commits keep every adapter)."""
    eval_steps: Annotated[int, Field(ge=1)] | None = None
    """Measure the validation loss every so many steps; once per epoch by default."""
    logging_steps: Annotated[int, Field(ge=1)] = 10
    """One point of the loss curve per so many steps."""
    resume: bool = True
    """Go on from the last checkpoint of an interrupted run."""
    loss_watchdog: bool = False
    """End a training whose loss stays above loss_watchdog_threshold; it fails."""
    loss_watchdog_threshold: Annotated[float, Field(gt=0)] = 3.0
    """For loss_watchdog: the highest loss of a healthy step."""
    loss_watchdog_patience: Annotated[int, Field(ge=1)] = 5
    """For loss_watchdog: so many steps in a row may be above it."""
    early_stop_patience: Annotated[int, Field(ge=1)] | None = None
    """End a training after so many measurements without a lower validation loss. The lowest is
    a checkpoint, whatever save_steps says."""
    early_stop_threshold: Annotated[float, Field(ge=0)] = 0.0
    """For early_stop_patience: what falls by no more than this is not lower."""
    eval_gate: EvalGateBlock | None = None
    """Score the adapter while it trains. What comes out has the same bytes with and without."""
    lora: LoraBlock = LoraBlock()
    trl: dict[str, Any] = {}
    """Any other option of TRL's config class for the task, by its own name."""

    @property
    def rows_per_batch(self) -> int:
        """batch_size as a number. Raises FatalError where it is still to be found."""
        if self.batch_size == "auto":
            raise FatalError(
                "training.batch_size: auto: no number was found for it yet",
                hint="dvc repro, or git soup train, finds one and writes it into the config",
            )
        return self.batch_size

    @property
    def warmup(self) -> float:
        """Steps if at least 1, else a share of the steps, as transformers' warmup_steps."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return 0.03 if self.warmup_ratio is None else self.warmup_ratio


class SoupConfig(_Block):
    """A training config: what to train, on what, how, and where it goes."""

    base: Annotated[str, Field(min_length=1)]
    """A folder with a model, or a model's id on the hub."""
    revision: Annotated[str, Field(min_length=1)] | None = None
    """Branch, tag or commit of a hub model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. It can do anything you can."""
    task: Literal[tuple(TASKS)] = "sft"  # type: ignore[valid-type]
    """The training method."""
    data: DataBlock
    training: TrainingBlock = TrainingBlock()
    output: Annotated[str, Field(min_length=1)] = "./output"
    """The adapter's folder."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, raw: Any) -> Any:
        return with_defaults(raw)

    @property
    def method(self) -> Task:
        """The task's row; of task preference, that of its loss."""
        return chosen(self.task, self.training.preference_loss)

    def with_batch_size(self, size: int) -> SoupConfig:
        """The same config with `size` rows per forward pass."""
        training = self.training.model_copy(update={"batch_size": size})
        return self.model_copy(update={"training": training})

    @property
    def compares(self) -> str:
        """What compares answers with those of the base, the adapter switched off: the task, or
        an option of it; empty where nothing does. The base may not move then."""
        if self.method.compares:
            return f"task {self.task}"
        return "grpo_beta" if "grpo_beta" in self.method.options and self.training.grpo_beta else ""

    _source: str = PrivateAttr(default="soup.yaml")
    _lines: dict[Where, int] = PrivateAttr(default_factory=dict)

    def refuse(self, key: str, what: str, *, hint: str = "") -> FatalError:
        """The error that blames `key` (`training.precision`) with its file and line."""
        at = place(self._source, line_of(self._lines, tuple(key.split("."))))
        return FatalError(f"{at}: {key}: {what}", hint=hint or f"edit {self._source}")

    def given(self, key: str) -> bool:
        """Did the file (or an override) set `key`, rather than the default?"""
        return tuple(key.split(".")) in self._lines


def json_schema() -> dict[str, Any]:
    """The schema that editors use to complete and check `soup.yaml`."""
    schema = SoupConfig.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "soup.yaml"
    return schema
