"""Settings that are there once a defaults list names them: the terms of a loss, the controls and files of a run."""

from dataclasses import dataclass
from typing import Any

from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from kdexp.config import Config
from kdexp.controls.config import CONTROLS, Control
from kdexp.errors import UserError
from kdexp.export.config import FORMATS, ExportFormat
from kdexp.loss.terms import TERMS, FeatureTerm


@dataclass(frozen=True)
class Parts:
    """One kind of them.

    Attributes:
        path: Where they stand.
        group: Whose options they are.
        owner: What lacks one that nobody asked for.
        kind, kinds: Their class, and the class of each by name.
        example: What is expected where they stand.
        in_file: How a file declares `{name}`, beside the command line.
    """

    path: str
    group: str
    owner: str
    kind: type
    kinds: dict[str, Any]
    example: str
    in_file: str = ""

    def explain(self, setting: str, error: OmegaConfBaseException) -> UserError | None:
        """What is wrong with a setting of this kind; None where it is something else."""
        name = setting.removeprefix(f"{self.path}.")
        if error.object_type is self.kind or f"not a subclass of {self.kind.__name__}" in str(error.msg):
            return self.undeclared(name.partition(".")[0])
        if name != setting and "." not in name and isinstance(error, ConfigKeyError):
            problem = f"the {self.owner} has no such {self.group.removesuffix('s')}"
            return UserError(setting, problem, f"add it with '{self.group}=[{name}]'")
        return None

    def undeclared(self, name: str) -> UserError:
        """Of one that no defaults list names: what can be set of it is not known."""
        setting = f"{self.path}.{name}"
        if name not in self.kinds:
            problem = f"no such {self.group.removesuffix('s')}"
            return UserError(setting, problem, f"expected one of {', '.join(self.kinds)}")
        return UserError(
            setting, "is not declared", f"add it with '{self.group}=[{name}]'{self.in_file.format(name=name)}"
        )


PARTS = (
    Parts(
        *("loss.terms", "terms", "loss", FeatureTerm, TERMS, "terms by name: 'terms=[rkd,hidden]'"),
        in_file=", or in the defaults list of a loss with `- /terms@terms.{name}: {name}`",
    ),
    Parts("export", "export", "run", ExportFormat, FORMATS, "formats by name: 'export=[onnx,onnx_int8]'"),
    Parts("controls", "controls", "run", Control, CONTROLS, "controls by name: 'controls=[pseudo_labels,tuned]'"),
)


def explain_part(setting: str, error: OmegaConfBaseException) -> UserError | None:
    """What is wrong with a setting of a part; None where it is something else."""
    return next((refusal for parts in PARTS if (refusal := parts.explain(setting, error))), None)


def by_name(setting: str) -> str:
    """What is expected where parts stand; "" elsewhere."""
    return next((parts.example for parts in PARTS if parts.path == setting), "")


def refuse_undeclared(config: Config) -> None:
    """Refuse what `+loss.terms.rkd.weight=1` slipped past the schema.

    Raises:
        UserError: A part has no class of its own.
    """
    holders: tuple[dict[str, Any], ...] = (config.loss.terms, config.export, config.controls)
    for parts, given in zip(PARTS, holders, strict=True):
        for name, part in given.items():
            if type(part) is not parts.kinds.get(name):
                raise parts.undeclared(name)
