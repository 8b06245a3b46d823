"""A teacher that is a causal language model: how likely it finds the word for each class after a prompt.

    score_c = log P(word_c | prompt) [/ tokens of word_c],    p = softmax(score)

With `calibrate`, each class is divided by what the model gives it where there is no text to judge, the mean over some
contents that say nothing (contextual calibration, Zhao et al. 2021, https://arxiv.org/abs/2102.09690, section 5):
p_c ~ p_c / p_c(no content).
"""

import hashlib
import json
import logging
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError
from kdexp.fingerprint import library_versions, weights_fingerprint
from kdexp.hardware import Hardware
from kdexp.loss.base import Outputs
from kdexp.model.checkpoints import find_checkpoint, load_tokenizer, loading_options, num_positions, unreadable
from kdexp.model.config import ModelConfig
from kdexp.model.scoring import Scores, WordScorer
from kdexp.model.tokens import tokenizer_fingerprint
from kdexp.progress import progress
from kdexp.task.kinds.base import Answers
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Cost, Preparation, Scale, Teacher, TeacherAnswers
from kdexp.teacher.config import CausalTeacherConfig
from kdexp.teacher.prompt import Prompt
from kdexp.teacher.translation import Translation, source_names, translation_of
from kdexp.training.checks import freeze

logger = logging.getLogger(__name__)

CONTENT_FREE = ("N/A", "", "[MASK]")
"""Contents that say nothing, as the paper has them."""

_BATCHES_AT_ONCE = 32
"""Batches whose prompts are sorted by length together."""

_FORMAT = 1
"""A new number when the same model is read differently."""


class CausalTeacher:
    """Answers by the words that a language model would go on with."""

    scale = Scale.log_probabilities

    def __init__(
        self, role: str, settings: CausalTeacherConfig, prompt: Prompt, scorer: WordScorer, hardware: Hardware
    ) -> None:
        self.role, self.name, self.checks_chance = role, settings.name, settings.chance_check
        self.settings, self.prompt, self.scorer, self.hardware = settings, prompt, scorer, hardware
        self.num_parameters = sum(item.numel() for item in scorer.model.parameters())
        self.members: Mapping[str, Teacher] = {}
        self.preparation = Preparation()
        self.notices: list[str] = []
        self.digest = ""

    def prepare(self) -> None:
        """Freeze it: it was trained elsewhere."""
        freeze(self.scorer.model)
        self.digest = weights_fingerprint(self.scorer.model.state_dict())

    def fingerprint(self) -> str:
        parts = {
            "format": _FORMAT,
            "weights": self.digest or weights_fingerprint(self.scorer.model.state_dict()),
            "config": json.loads(self.scorer.model.config.to_json_string(use_diff=False)),
            "tokenizer": tokenizer_fingerprint(self.scorer.tokenizer),
            "max_length": self.scorer.max_length,
            "prompt": self.prompt.template,
            "words": self.scorer.words,
            "normalise": self.settings.normalise,
            "calibrate": list(CONTENT_FREE) if self.settings.calibrate else None,
            "numerics": self.hardware.numerics,
            "versions": library_versions(),
        }
        for provenance in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"):
            parts["config"].pop(provenance, None)
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

    def verify(self) -> None:
        if weights_fingerprint(self.scorer.model.state_dict()) != self.digest:
            raise RuntimeError("the teacher's weights changed during the run: only the student may learn")

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        started = time.perf_counter()
        model = self.scorer.model.to(self.hardware.device)
        num_cut = num_tokens = 0
        rows: list[Tensor] = []
        with (
            self.hardware.threads_for(model),
            progress(f"teacher {self.name}: answers on {name}", len(split)) as advance,
            torch.inference_mode(),
            self.hardware.autocast(),
        ):
            prior = self._prior(split.is_pair) if self.settings.calibrate else 0.0
            for first, second in split.text_batches(_BATCHES_AT_ONCE * self.settings.batch_size):
                pairs: Sequence[str | None] = second or [None] * len(first)
                prompts = [
                    self.scorer.prompt_ids(self.prompt, text, pair) for text, pair in zip(first, pairs, strict=True)
                ]
                num_cut += sum(is_cut for _, is_cut in prompts)
                scores = self._scores([ids for ids, _ in prompts])
                num_tokens += scores.num_tokens
                rows.append(log_softmax(scores.values - prior, dim=-1).cpu())
                advance(len(first))
        model.to("cpu")  # its memory is the student's now
        if num_cut:
            rows_cut = f"{num_cut:,} of {len(split):,} rows of {name}"
            notice = f"the text was cut to fit {self.scorer.max_length} tokens in {rows_cut}"
            self.notices.append(notice)
            logger.info("teacher %s: %s", self.name, notice)
        seconds = time.perf_counter() - started
        return TeacherAnswers(
            answers=Answers(torch.cat(rows).float()),
            key=self.fingerprint(),
            num_forwarded=len(split),
            seconds=seconds,
            cost=Cost(len(split), seconds, 0, num_tokens),
        )

    def _scores(self, prompts: Sequence[Sequence[int]]) -> Scores:
        """In batches of prompts of like length, so that little is padded."""
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
        values, num_tokens = torch.empty(len(prompts), len(self.scorer.words), device=self.scorer.model.device), 0
        for start in range(0, len(order), self.settings.batch_size):
            batch = order[start : start + self.settings.batch_size]
            found = self.scorer.scores([prompts[row] for row in batch], normalise=self.settings.normalise)
            values[batch] = found.values
            num_tokens += found.num_tokens
        return Scores(values, num_tokens)

    def _prior(self, is_pair: bool) -> Tensor:
        """[classes]: log of the mean probability of each class where there is nothing to judge."""
        prompts = [
            self.scorer.prompt_ids(self.prompt, content, content if is_pair else None)[0] for content in CONTENT_FREE
        ]
        scores = self.scorer.scores(prompts, normalise=self.settings.normalise).values
        return log_softmax(scores, dim=-1).exp().mean(dim=0).log()


def load_causal(
    role: str, settings: CausalTeacherConfig, task: Task, hardware: Hardware
) -> tuple[CausalTeacher, Translation | None]:
    """Load a causal language model as the teacher, and how its classes become the task's.

    Raises:
        UserError: It cannot be loaded, or cannot answer the task.
    """
    settings.refuse_kind(role, task.kind)
    names = source_names(settings.label_map, task.label_names)
    translation = translation_of(role, settings, names, Outputs.classes, task.kind)
    words = settings.verbalizers or {name: f" {name}" for name in names}
    prompt = Prompt.of(role, settings.prompt, words, names, is_pair=task.train.is_pair)
    model, tokenizer = _load(role, settings)
    positions = num_positions(model)
    longest = min(filter(None, (settings.max_length, positions, tokenizer.model_max_length)))
    scorer = WordScorer(model, tokenizer, prompt.verbalizers, int(longest))
    scorer.refuse_unfit(role, prompt)
    teacher = CausalTeacher(role, settings, prompt, scorer, hardware)
    return teacher, translation


def _load(role: str, settings: CausalTeacherConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    described = ModelConfig(
        name=settings.name,
        family="",
        checkpoint=settings.checkpoint,
        revision=settings.revision,
        trust_remote_code=settings.trust_remote_code,
        allow_pickle=settings.allow_pickle,
    )
    where = find_checkpoint(role, settings.checkpoint)
    options = loading_options(described, where)
    try:
        config = AutoConfig.from_pretrained(where, **options)
    except Exception as error:
        raise unreadable(role, settings.checkpoint, error) from error
    if not any("CausalLM" in name or "LMHead" in name for name in config.architectures or []):
        made = ", ".join(config.architectures or ["no architecture"])
        problem = f"{settings.checkpoint} is no causal language model (it is {made})"
        raise UserError(f"{role}.checkpoint", problem, f"choose one such as GPT-2 or Llama, or {role}=<an encoder>")
    tokenizer = load_tokenizer(role, described, where)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=torch.float32, use_safetensors=not settings.allow_pickle, **options
        )
    except Exception as error:
        raise unreadable(role, settings.checkpoint, error) from error
    return model, tokenizer
