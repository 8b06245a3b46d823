"""What a model is to a run, and which of these roles are told beside each other."""

Role = str
"""What a model is to a run. An open set: `student`; `teacher`, what the student is taught; `teacher_<name>`, one of
several; `baseline`, the same student without a teacher; `control/<name>`; `export/<format>`."""

PSEUDO_LABELS = "control/pseudo_labels"
"""The student that was taught the teacher's one-hot answers."""
GOLD = "control/gold"
"""The student that was given the gold labels of all text: the ceiling."""
TUNED, TUNED_BASELINE = "control/tuned", "control/tuned_baseline"
"""Distilled student and baseline, each with the best of the same schedules."""

FULL_VOCAB = "control/full_vocab"
"""The student whose vocabulary is trimmed, with all of its tokens."""

_FILE = "export/"

CONTRASTS: dict[str, tuple[Role, Role]] = {
    "text": (PSEUDO_LABELS, "baseline"),
    "soft": ("student", PSEUDO_LABELS),
    "tuned": (TUNED, TUNED_BASELINE),
}
"""What is told beside the gain, each a role minus another."""
PARTS = ("text", "soft")
"""Those that add up to the gain."""


def is_teacher(role: Role) -> bool:
    """Whether a model teaches, alone or among several."""
    return role == "teacher" or role.startswith("teacher_")


def file_role(name: str) -> Role:
    """The role of an exported file: `export/onnx` of `onnx`."""
    return f"{_FILE}{name}"


def file_name(role: Role) -> str | None:
    """Its inverse; None of a model that is no file."""
    return role.removeprefix(_FILE) if role.startswith(_FILE) else None
