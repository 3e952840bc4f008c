"""One loaded model, asked: what it says after a prompt, how likely it finds a text.

Rows are batched by length. A prompt is padded on its left and a text on its right, both
masked, so a row's answer does not depend on the rows beside it beyond floating point. When
sampling is asked for, each row has a generator of its own, seeded by the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from soup_git.core.digests import sha256_hex
from soup_git.data.rows import Row
from soup_git.errors import FatalError
from soup_git.training.prepared import Encoded
from soup_git.training.templates import Template
from soup_git.training.tokens import Renderer, common_prefix

OnDone = Callable[[int], None]
"""Told how many rows were just finished."""


@dataclass(frozen=True)
class Decoding:
    """How answers are generated. Greedy at temperature 0; `stop` cuts an answer."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()


class Model:
    """A causal language model with its tokenizer and chat template, in evaluation mode."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        template: Template | None,
        *,
        name: str,
        batch_size: int,
        ends: Sequence[int] | None = None,
    ) -> None:
        """`ends` are the tokens that end an answer, instead of those of the model's own config."""
        self.model = model
        self.tokenizer = tokenizer
        self.template = template
        self.name = name
        self.batch_size = batch_size
        self._ends = _end_tokens(model, tokenizer, template, ends)

    # -- text to tokens -----------------------------------------------------------------------

    def prompt(self, prompt: str | list[Row], tools: list[Row] | None = None) -> list[int]:
        """The tokens after which the model speaks: through the chat template, where there is one."""
        return self._tokens(self._prompt_text(prompt, tools))

    def continued(
        self, prompt: str | list[Row], continuation: str, tools: list[Row] | None = None
    ) -> Encoded:
        """Prompt and continuation; the loss is on the continuation alone."""
        start = self._prompt_text(prompt, tools)
        whole = self._tokens(start + continuation)
        shared = common_prefix(self._tokens(start), whole)
        return Encoded(whole, [i >= shared for i in range(len(whole))])

    def _prompt_text(self, prompt: str | list[Row], tools: list[Row] | None) -> str:
        from jinja2 import TemplateError

        if self.template is None:
            if isinstance(prompt, str):
                return prompt
            raise FatalError(
                f"the tokenizer of {self.name} has no chat template, and this prompt is turns",
                hint="chat_template: chatml in the suite, another name, or a .jinja file",
            )
        turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            return Renderer(self.tokenizer, self.template, tools).text(turns, prompt=True)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            # A template is a program: it can fail in any of these ways.
            raise FatalError(
                f"the chat template ({self.template.origin}) cannot render this prompt: {error}",
                hint="another chat_template in the suite, or change the row",
            ) from None

    def _tokens(self, text: str) -> list[int]:
        # A rendered template writes its own special tokens.
        encoded = self.tokenizer(text=text, add_special_tokens=self.template is None)
        return list(encoded["input_ids"])

    @property
    def window(self) -> int | None:
        """How many tokens the model reads at most, where its config says so."""
        found = getattr(self.model.config, "max_position_embeddings", None)
        return int(found) if isinstance(found, int) and found > 0 else None

    # -- asking -------------------------------------------------------------------------------

    def generate(
        self, prompts: Sequence[list[int]], decoding: Decoding, on_done: OnDone | None = None
    ) -> list[str]:
        """One answer per prompt, special tokens left out, cut at the first `stop`."""
        room = [self._room(ids, decoding.max_new_tokens) for ids in prompts]
        alone = decoding.temperature > 0
        found = [""] * len(prompts)
        with self._asking():
            for batch in self._batches(prompts, room, 1 if alone else self.batch_size):
                seed = _row_seed(decoding.seed, prompts[batch[0]]) if alone else None
                told = self._generate([prompts[i] for i in batch], decoding, room[batch[0]], seed)
                for i, text in zip(batch, told, strict=True):
                    found[i] = text
                if on_done is not None:
                    on_done(len(batch))
        return found

    def logprobs(
        self, sequences: Sequence[Encoded], on_done: OnDone | None = None
    ) -> list[tuple[float, int]]:
        """Per sequence the sum of log-probabilities (nats) of its tokens in the loss, and their count."""
        window = self.window
        fitted = [
            s if window is None else Encoded(s.ids[:window], s.in_loss[:window]) for s in sequences
        ]
        found: list[tuple[float, int]] = [(0.0, 0)] * len(fitted)
        ids = [s.ids for s in fitted]
        with self._asking():
            for batch in self._batches(ids, [0] * len(ids), self.batch_size):
                for i, result in zip(
                    batch, self._logprobs([fitted[i] for i in batch]), strict=True
                ):
                    found[i] = result
                if on_done is not None:
                    on_done(len(batch))
        return found

    def _room(self, ids: list[int], wanted: int) -> int:
        window = self.window
        if window is None:
            return wanted
        if len(ids) >= window:
            raise FatalError(
                f"a prompt has {len(ids)} tokens and {self.name} reads {window}",
                hint="shorten the prompt: the suite's prompt files hold them",
            )
        return min(wanted, window - len(ids))

    def _batches(
        self, rows: Sequence[list[int]], room: Sequence[int], size: int
    ) -> Iterator[list[int]]:
        """Indices of rows that go together: alike in length, and equal in what they may say."""
        order = sorted(range(len(rows)), key=lambda i: (room[i], len(rows[i]), i))
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) == size or room[i] != room[batch[0]]):
                yield batch
                batch = []
            batch.append(i)
        if batch:
            yield batch

    def _generate(
        self, prompts: list[list[int]], decoding: Decoding, room: int, seed: int | None
    ) -> list[str]:
        import torch
        from transformers import GenerationConfig

        width = max(map(len, prompts))
        pad = self.pad
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self._device)
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self._device
        )
        sampling: dict[str, Any] = {"do_sample": False}
        if seed is not None:
            torch.manual_seed(seed)
            sampling = {
                "do_sample": True,
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "top_k": decoding.top_k,
            }
        settings = GenerationConfig(
            max_new_tokens=room,
            num_beams=1,
            repetition_penalty=1.0,
            eos_token_id=self._ends,
            pad_token_id=pad,
            use_cache=True,
            **sampling,
        )
        told = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        texts = self.tokenizer.batch_decode(told[:, width:], skip_special_tokens=True)
        return [_stopped(str(text), decoding.stop) for text in texts]

    def _logprobs(self, sequences: list[Encoded]) -> Iterator[tuple[float, int]]:
        import torch

        width = max(len(s.ids) for s in sequences)
        pad = self.pad
        ids = torch.tensor(
            [s.ids + [pad] * (width - len(s.ids)) for s in sequences], device=self._device
        )
        mask = torch.tensor(
            [[1] * len(s.ids) + [0] * (width - len(s.ids)) for s in sequences], device=self._device
        )
        # Prompt tuning puts virtual tokens in front: what counts are the last `width`.
        logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -width:]
        for row, sequence in enumerate(sequences):
            places = [i for i in range(1, len(sequence.ids)) if sequence.in_loss[i]]
            if not places:
                yield 0.0, 0
                continue
            before = logits[row, [i - 1 for i in places]].float()
            targets = ids[row, places].unsqueeze(1)
            chosen = torch.log_softmax(before, dim=-1).gather(1, targets)
            yield float(chosen.double().sum()), len(places)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Evaluation mode without gradients; generators and mode are put back afterwards."""
        import torch

        was_training = self.model.training
        self.model.eval()
        devices = list(range(torch.cuda.device_count()))
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=devices):
                yield
        finally:
            self.model.train(was_training)

    @property
    def _device(self) -> Any:
        return self.model.device

    @property
    def pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self._ends[0] if self._ends else 0


def _row_seed(seed: int, ids: list[int]) -> int:
    """A seed that the row and the suite decide, so that neighbours and batch size do not."""
    return int(sha256_hex(f"{seed}:{ids}".encode())[:15], 16)


def _stopped(text: str, stops: Sequence[str]) -> str:
    ends = [text.find(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text


def _end_tokens(
    model: Any, tokenizer: Any, template: Template | None, own: Sequence[int] | None
) -> list[int]:
    """Every token that ends an answer: the adapter's or the model's, the tokenizer's, the template's."""
    configured: Any = own or getattr(model.generation_config, "eos_token_id", None)
    ends = list(configured) if isinstance(configured, list | tuple) else [configured]
    ends.append(tokenizer.eos_token_id)
    if template is not None:
        ends.append(_turn_end(tokenizer, template))
    return [int(end) for end in dict.fromkeys(ends) if end is not None]


def _turn_end(tokenizer: Any, template: Template) -> int | None:
    """The special token that the template writes right after what the assistant said."""
    from jinja2 import TemplateError

    turns: list[Row] = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "said"},
    ]
    try:
        text = Renderer(tokenizer, template, None).text(turns)
    except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError):
        return None  # a template that wants other turns still has the tokenizer's own end
    after = tokenizer(text=text.rpartition("said")[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids)
    return next((int(token) for token in after if token in special), None)
