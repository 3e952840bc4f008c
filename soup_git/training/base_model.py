"""Makes the small language model that demos and tests fine-tune, without any download.

The text is shipped with the package (demo_data/austen.txt.xz: two novels of Jane Austen, in the
public domain, one paragraph a line). A byte-level BPE tokenizer and a Llama of about a million
weights are trained on it from a fixed seed and written as an ordinary Hugging Face folder.
"""

from __future__ import annotations

import lzma
import math
import re
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import TYPE_CHECKING

from soup_git.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"

THREADS = 2

ASKING = ("What of {}?", "Tell me of {}.", "I wish to hear about {}.", "{}, if you please.")

SENTENCE_END = re.compile(r"(?<=[.?!])(?<!Mr\.)(?<!Mrs\.) ")

# ChatML. The generation markers tell TRL which tokens are the assistant's, for its
# assistant_only_loss; the end of the turn is inside, since the model has to learn to stop.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['role'] == 'assistant' -%}
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}
{%- else -%}
{{ message['content'] + '<|im_end|>' }}
{%- endif -%}
{{ '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


@dataclass(frozen=True)
class BaseModelSize:
    """How large the model is and how long it trains; the defaults take two minutes on two cores."""

    vocabulary: int = 2048
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    intermediate: int = 384
    window: int = 256
    batch: int = 4
    steps: int = 1600
    learning_rate: float = 5e-3


@dataclass(frozen=True)
class BaseModelReport:
    """What the training reached. Losses are nats per token on prose that it never saw."""

    directory: Path
    parameters: int
    vocabulary: int
    train_tokens: int
    held_out_tokens: int
    steps: int
    held_out_loss: float
    uniform_loss: float
    perplexity: float
    seconds: float


def make_base_model(
    directory: Path,
    *,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
    size: BaseModelSize | None = None,
) -> BaseModelReport:
    """Trains the base model and writes it to `directory`, which must be absent or empty.

    `progress(step, steps, loss)` is called after each step, with the training loss in nats per
    token. One seed, one processor type and one set of library versions give one set of bytes: the
    number of threads is fixed, as sums in another order would change them.

    Raises FatalError when `directory` has something in it, OSError when it cannot be written.
    """
    size = size or BaseModelSize()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FatalError(
            f"{directory} is not empty, and a base model is never written over other files",
            hint="name a folder that does not exist yet",
        )
    began = time.perf_counter()
    train_text, held_out_text = _split(_paragraphs())
    tokenizer = _train_tokenizer(train_text, size)
    windows = _windows(tokenizer, [*_prose(train_text), *_chats(train_text)], size.window)
    # Prose only: a chat's markers are easy to predict and would flatter the loss.
    unseen = _windows(tokenizer, _prose(held_out_text), size.window)
    with _repeatable(seed):
        model = _new_model(tokenizer, size)
        _fit(model, windows, size, seed, progress)
        loss = _loss(model, unseen)
    _save(model, tokenizer, directory)
    return BaseModelReport(
        directory=directory,
        parameters=sum(weight.numel() for weight in model.parameters()),
        vocabulary=len(tokenizer),
        train_tokens=windows.numel(),
        held_out_tokens=unseen.numel(),
        steps=size.steps,
        held_out_loss=loss,
        uniform_loss=math.log(len(tokenizer)),
        perplexity=math.exp(loss),
        seconds=time.perf_counter() - began,
    )


def _paragraphs() -> list[str]:
    data = resources.files("soup_git.training") / "demo_data" / "austen.txt.xz"
    return lzma.decompress(data.read_bytes()).decode("ascii").splitlines()


def _split(paragraphs: list[str]) -> tuple[list[str], list[str]]:
    """Every twentieth block of forty paragraphs is held out: far enough apart to share no scene."""
    train: list[str] = []
    held_out: list[str] = []
    for start in range(0, len(paragraphs), 40):
        part = held_out if start // 40 % 20 == 10 else train
        part.extend(paragraphs[start : start + 40])
    return train, held_out


def _prose(paragraphs: list[str]) -> list[str]:
    return [paragraph + "\n" for paragraph in paragraphs]


def _chats(paragraphs: list[str]) -> Iterator[str]:
    """Rows in the chat template's form, made from the text alone.

    Where one speech follows another, they are a question and its answer. Speeches answer each
    other loosely, so there are also rows that cannot be answered without reading the question:
    two rare words, and a sentence that has them.
    """
    for first, second in pairwise(paragraphs):
        said, answered = _speech(first), _speech(second)
        if 0 < len(said) < 300 and 0 < len(answered) < 400:
            yield _chat(said, answered)
    sentences = [
        sentence
        for paragraph in paragraphs
        for sentence in SENTENCE_END.split(paragraph)
        if 30 < len(sentence) < 140 and '"' not in sentence and _words(sentence)
    ]
    count = Counter(word for sentence in sentences for word in _words(sentence))
    for number, sentence in enumerate(sentences):
        rare = sorted(_words(sentence), key=lambda word: (count[word] < 4, count[word], word))[:2]
        yield _chat(ASKING[number % len(ASKING)].format(" and ".join(rare)), sentence)


def _chat(said: str, answered: str) -> str:
    return (
        f"{TURN_START}user\n{said}{TURN_END}\n"
        f"{TURN_START}assistant\n{answered}{TURN_END}\n{END_OF_TEXT}"
    )


def _words(sentence: str) -> list[str]:
    return sorted(set(re.findall(r"[A-Za-z]{4,}", sentence)))


def _speech(paragraph: str) -> str:
    """What is said in a paragraph that opens with a speech, else nothing."""
    if not paragraph.startswith('"'):
        return ""
    return " ".join(part.strip() for part in re.findall(r'"([^"]*)"?', paragraph)).strip()


def _train_tokenizer(paragraphs: list[str], size: BaseModelSize) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The novels hardly have these words, which every chat has: one token each.
    bpe.train_from_iterator([*paragraphs, *["user\nassistant\nsystem\n"] * 100], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=None,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=size.window,
        clean_up_tokenization_spaces=False,
    )


def _windows(tokenizer: PreTrainedTokenizerFast, texts: list[str], length: int) -> torch.Tensor:
    """All texts as one stream of token ids cut into rows: int64, (rows, length)."""
    import torch

    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    stream = [token for text in encoded for token in text.ids]
    rows = len(stream) // length
    return torch.tensor(stream[: rows * length]).view(rows, length)


def _new_model(tokenizer: PreTrainedTokenizerFast, size: BaseModelSize) -> LlamaForCausalLM:
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.window,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=64,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _fit(
    model: LlamaForCausalLM,
    windows: torch.Tensor,
    size: BaseModelSize,
    seed: int,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    import torch

    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=size.learning_rate,
        betas=(0.9, 0.95),
        fused=True,
    )
    warm_up = max(1, size.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warm_up,
            0.5 + 0.5 * math.cos(math.pi * step / size.steps),
        ),
    )
    order = _endless_order(len(windows), torch.Generator().manual_seed(seed))
    model.train()
    for step in range(1, size.steps + 1):
        rows = windows[[next(order) for _ in range(size.batch)]]
        loss = model(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step, size.steps, loss.item())
    model.eval()


def _endless_order(count: int, generator: torch.Generator) -> Iterator[int]:
    import torch

    while True:
        yield from torch.randperm(count, generator=generator).tolist()


def _loss(model: LlamaForCausalLM, windows: torch.Tensor) -> float:
    """Mean loss in nats per token."""
    import torch

    with torch.no_grad():
        losses: list[float] = [
            model(input_ids=rows, labels=rows).loss.item() * len(rows) for rows in windows.split(32)
        ]
    return sum(losses) / len(windows)


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    from transformers.utils import logging

    # A bar over the one file of four megabytes would stand between the command's own lines.
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Fixes what changes the bytes (seed, threads, algorithms), then puts it back as it was."""
    import torch

    threads = torch.get_num_threads()
    deterministic = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.set_num_threads(threads)
