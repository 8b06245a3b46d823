"""Projections of feature terms: trained with the student and saved beside it, and no part of it."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from kdexp.loss.features import FeatureTerms
from kdexp.training.arguments import DistillationTrainingArguments
from kdexp.training.checks import refuse_unfit_terms
from kdexp.training.config import Tokenization

_MODULE = "distillation_terms"
_FILE = "distillation_terms.safetensors"


class Projections:
    """Where the feature terms of a training stand: in the student while it trains, beside it when it is saved.

    Args:
        terms: None: there are none, and nothing is done.
    """

    def __init__(self, student: nn.Module, terms: FeatureTerms | None) -> None:
        self._student = student
        self._terms = terms

    @contextlib.contextmanager
    def attached(self, device: torch.device) -> Iterator[None]:
        """A part of the student: optimized, clipped and synchronised with it."""
        if self._terms is None:
            yield
            return
        self._student.add_module(_MODULE, self._terms.to(device))
        try:
            yield
        finally:
            delattr(self._student, _MODULE)

    @contextlib.contextmanager
    def beside(self) -> Iterator[bool]:
        """Write and read the student alone; yields whether there are projections to write and read beside it."""
        is_attached = _MODULE in self._student._modules
        if is_attached:
            delattr(self._student, _MODULE)
        try:
            yield is_attached
        finally:
            if is_attached:
                self._student.add_module(_MODULE, self._terms)

    def save(self, folder: str) -> None:
        """Write them beside the student."""
        assert self._terms is not None
        save_file(self._terms.state_dict(), Path(folder) / _FILE)

    def load(self, folder: str) -> None:
        """Read what `save` wrote."""
        assert self._terms is not None
        self._terms.load_state_dict(load_file(Path(folder) / _FILE))


def prepare_for_terms(terms: FeatureTerms, args: DistillationTrainingArguments, given: Mapping[str, Any]) -> None:
    """Refuse what feature terms cannot work with, and have DistributedDataParallel wait for their projections."""
    if given.get("model_init") is not None:
        raise ValueError("feature_terms are made for one student: pass model in place of model_init")
    refuse_unfit_terms(terms.terms, Tokenization(args.tokenization))
    # They are used outside of the student's forward, after which a search would take them for unused.
    if args.ddp_find_unused_parameters is None:
        args.ddp_find_unused_parameters = False
    if args.ddp_find_unused_parameters and terms.projections and args.world_size > 1:
        raise ValueError(
            "ddp_find_unused_parameters=True takes the projections of feature_terms for unused: leave it out, or set "
            "it to False"
        )
