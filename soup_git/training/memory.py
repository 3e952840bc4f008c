"""When memory is not enough: how that shows, and what needs less of it."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from soup_git.core.diagnosis import Change
from soup_git.errors import FatalError
from soup_git.training.schema import SoupConfig


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, its CPU allocator or the system said that memory is not enough."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("can't allocate memory", "out of memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


@contextlib.contextmanager
def named(config: SoupConfig) -> Iterator[None]:
    """Raises FatalError with what to lower, where memory is not enough inside."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()
        first, *others = what_to_lower(config)
        more = "; ".join(f"{change.key}: {change.value}" for change in others)
        raise FatalError(
            f"out of memory: {said[0] if said else type(error).__name__}",
            hint=f"{first.key}: {first.value}; or {more}. git soup profile measures it",
        ) from error


def what_to_lower(config: SoupConfig) -> list[Change]:
    """What needs less memory, ordered by what it costs in quality: nothing first."""
    training, found = config.training, []
    if training.batch_size != "auto" and training.batch_size > 1:
        half = training.batch_size // 2
        more = -(-training.batch_size * training.gradient_accumulation_steps // half)
        same = f"{half}, with training.gradient_accumulation_steps: {more} the same training"
        found.append(Change("training.batch_size", same))
    if not training.gradient_checkpointing:
        found.append(Change("training.gradient_checkpointing", "true (slower, the same result)"))
    if training.precision == "fp32":
        found.append(Change("training.precision", "bf16"))
    if config.data.max_length > 256:
        found.append(Change("data.max_length", f"{config.data.max_length // 2}, which cuts rows"))
    if training.quantization == "none":
        found.append(Change("training.quantization", "4bit"))
    found.append(Change("base", "a smaller one"))
    return found
