"""Adapters on one base, switched: PEFT holds the shapes, the numbers are copied in.

Adapters of equal config share one set of PEFT layers, so the next checkpoint of a run, or
the next candidate of a search, costs a copy of its tensors. Adapters of another config get
layers of their own beside them (PEFT's adapter switching). What changes the base itself
(trained biases, whole modules, an init that moves weights) is used alone, and the base is
loaded again after it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from soup_git.core.digests import sha256_hex
from soup_git.core.text import canonical_json
from soup_git.errors import FatalError
from soup_git.evaluation.candidate import Candidate, Tensors, refuse_other_head

MOST_SHAPES = 8
"""Sets of layers held at once; the next one starts over."""
_MOVING_INITS = ("pissa", "olora", "corda", "eva", "loftq", "lora_ga")


class Attachments:
    """The base and what is attached to it. `use(candidate)` gives the model to ask."""

    def __init__(self, load_base: Callable[[], Any]) -> None:
        self._load_base = load_base
        self._base: Any = None
        self._peft: Any = None
        self._shapes: dict[str, Mapping[str, Any]] = {}
        self._type = ""
        self._spoils = False
        self._parameters: dict[str, dict[str, Any]] = {}
        self.base_loads = 0

    def base(self) -> Any:
        """The bare base: loaded once, and again only where an adapter changed it."""
        self._detach()
        if self._base is None:
            self._base = self._load_base()
            self._base.eval()
            self.base_loads += 1
        return self._base

    @contextmanager
    def use(self, candidate: Candidate | None) -> Iterator[Any]:
        """The base with the candidate on it, or bare; its scaling holds inside the block."""
        if candidate is None:
            yield self.base()
            return
        self._attach(candidate)
        with self._scaled(candidate):
            yield self._peft

    @contextmanager
    def use_both(self, first: Candidate, second: Candidate) -> Iterator[tuple[Any, str, str]]:
        """The base with both on it, the first active, and the names that PEFT knows them by.

        Raises FatalError where they cannot be there together: methods that PEFT does not
        mix, or changes of the base itself.
        """
        if first.scaling or second.scaling:
            raise ValueError("a pair is scaled by its user")
        if len(self._shapes) > MOST_SHAPES - 2:
            self._detach()
        own = self._attach(first)
        peft = self._peft
        other = self._attach(second, "o")
        if self._peft is not peft or self._spoils:
            why = (
                "one of them changes the base itself (biases, whole modules, embeddings saved along)"
                if self._spoils
                else "they are of two methods"
            )
            self._forget()
            raise FatalError(
                f"{first.name} and {second.name} cannot be on one base together: {why}",
                hint="blame each by itself: without --against",
            )
        self._peft.set_adapter(own)
        yield self._peft, own, other

    def close(self) -> None:
        self._detach()
        self._base = None

    # -- attaching ----------------------------------------------------------------------------

    def _attach(self, candidate: Candidate, slot: str = "s") -> str:
        """PEFT's name for what is now active; adapters of one shape share it within a slot."""
        settings = _settings(candidate)
        shape = slot + sha256_hex(canonical_json(settings).encode())[:12]
        try:
            if shape not in self._shapes:
                self._add(settings, shape)
            self._peft.set_adapter(shape)
            self._fill(candidate, shape)
        except (
            ValueError, TypeError, KeyError, ImportError, NotImplementedError, RuntimeError,
            AttributeError,
        ) as error:  # fmt: skip
            # PEFT meets an untrusted config here, and answers with any of these.
            self._forget()
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # PyTorch's first line ends so, and says only that the reason follows.
            why = " ".join(lines[:2] if lines and lines[0].endswith(":") else lines[:1])
            raise FatalError(
                f"{candidate.name} does not fit its base: {why or type(error).__name__}",
                hint=f"git soup show {candidate.name} names its base and modules",
            ) from error
        self._peft.eval()
        return shape

    def _add(self, settings: Mapping[str, Any], shape: str) -> None:
        import torch
        from peft import PeftConfig, get_peft_model

        alone = _spoils(settings) or "num_virtual_tokens" in settings
        together = self._type == settings["peft_type"] and not self._spoils and not alone
        if self._peft is not None and (not together or len(self._shapes) >= MOST_SHAPES):
            self._detach()
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # advice to people who train
            config = PeftConfig.from_peft_type(**settings)
            if self._peft is None:
                base = self.base()
                self._spoils = _spoils(settings)
                self._peft = get_peft_model(base, config, adapter_name=shape)
            else:
                self._peft.add_adapter(shape, config)
        self._type = str(settings["peft_type"])
        self._shapes[shape] = settings

    def _fill(self, candidate: Candidate, shape: str) -> None:
        """Copy the candidate's numbers in; every one of them, or an error."""
        import torch
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        tensors = candidate.load()
        if shape not in self._parameters and self._type == "LORA" and not self._spoils:
            found = get_peft_model_state_dict(
                self._peft, adapter_name=shape, save_embedding_layers=False
            )
            self._parameters[shape] = dict(found)
        known = self._parameters.get(shape, {})
        if known and known.keys() == tensors.keys():
            with torch.no_grad():
                for name, parameter in known.items():
                    value = torch.as_tensor(tensors[name])
                    if value.shape != parameter.shape:
                        raise ValueError(
                            f"{name} is {_shape(value)} and the model takes {_shape(parameter)}"
                        )
                    parameter.copy_(value)
            return
        if known:
            _refuse_missing(known, tensors)
            self._spoils = True  # embeddings that were saved along replace the base's
        state = {name: torch.as_tensor(value) for name, value in tensors.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = set_peft_model_state_dict(self._peft, state, adapter_name=shape)
        # PEFT loads a prompt's embeddings into its encoder, and calls their name unexpected.
        strange = [key for key in result.unexpected_keys if key != "prompt_embeddings"]
        if strange:
            raise ValueError(f"the base has no place for {strange[0]}")

    def _detach(self) -> None:
        if self._peft is None:
            return
        import torch

        peft, spoils = self._peft, self._spoils
        self._peft, self._spoils, self._type = None, False, ""
        self._shapes, self._parameters = {}, {}
        if spoils:
            self._base = None
        elif hasattr(peft.base_model, "unload"):
            with torch.random.fork_rng(devices=[]):
                self._base = peft.unload()
        else:
            self._base = peft.get_base_model()

    def _forget(self) -> None:
        """After a failure half-way nothing attached is trusted, the base neither."""
        self._spoils = True
        self._detach()
        self._base = None

    @contextmanager
    def _scaled(self, candidate: Candidate) -> Iterator[None]:
        """Each named module's update times its factor, put back afterwards."""
        if not candidate.scaling:
            yield
            return
        layers = {
            name.removeprefix("base_model.model."): module
            for name, module in self._peft.named_modules()
            if isinstance(getattr(module, "scaling", None), dict)
        }
        before: list[tuple[Any, str, float]] = []
        try:
            for name, factor in candidate.scaling.items():
                if name not in layers:
                    raise FatalError(
                        f"{candidate.name} has no module {name} to scale",
                        hint=f"git soup show {candidate.name} lists its modules",
                    )
                scaling, key = layers[name].scaling, self._peft.active_adapter
                before.append((scaling, key, scaling[key]))
                scaling[key] = scaling[key] * factor
            yield
        finally:
            for scaling, key, value in before:
                scaling[key] = value


def _settings(candidate: Candidate) -> dict[str, Any]:
    """The config as PEFT takes it: without what is only a record of its making."""
    settings = dict(candidate.config)
    if not isinstance(settings.get("peft_type"), str):
        raise FatalError(
            f"{candidate.name}: its config names no peft_type",
            hint="save it again with PEFT's model.save_pretrained(DIR)",
        )
    refuse_other_head(candidate)
    record = ("auto_mapping", "revision", "base_model_name_or_path", "peft_version")
    for key in record:
        settings.pop(key, None)
    return settings | {"task_type": "CAUSAL_LM", "inference_mode": True}


def _spoils(settings: Mapping[str, Any]) -> bool:
    """Whether using the adapter changes the base's own weights."""
    init = settings.get("init_lora_weights")
    return bool(
        settings.get("bias", "none") != "none"
        or settings.get("modules_to_save")
        or (isinstance(init, str) and init.startswith(_MOVING_INITS))
    )


def _refuse_missing(known: Mapping[str, Any], tensors: Tensors) -> None:
    missing = sorted(known.keys() - tensors.keys())
    if missing:
        raise ValueError(f"its config asks for {missing[0]}, which its weights lack")
    strange = sorted(name for name in tensors.keys() - known.keys() if ".lora_" in name)
    if strange:
        raise ValueError(f"the base has no module for {strange[0]}")


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape))
