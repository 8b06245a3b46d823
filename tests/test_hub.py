"""The hub for real, on the loopback: a person's commands, and a hub that refuses, breaks off, dawdles or is gone.

Its clients read their address when they are imported: each hub needs a process of its own, which takes all commands.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import TOKEN, Hub, serving
from unmeasured import measured_environment

COMMANDS = """
import json, os, sys, time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
import kdexp.run  # what takes long to import is no waiting for the hub
import datasets, mlflow
from kdexp.cli.main import main
measure = os.environ.pop("KDEXP_TESTS_MEASURE", "")
told = []
for arguments in json.loads(sys.argv[1]):
    if len(told) == 2:  # the first two train, as many a test does
        exec(measure)
    environment = dict(part[1:].split("=", 1) for part in arguments if part.startswith("$"))
    os.environ.update(environment)
    sys.argv = ["kdexp", *(part for part in arguments if not part.startswith("$"))]
    out, err, code, started = StringIO(), StringIO(), 0, time.perf_counter()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    for name in environment:
        del os.environ[name]
    told.append([code, err.getvalue(), time.perf_counter() - started])
sys.stdout.write("TOLD" + json.dumps(told))
"""

QUICK = (
    *("train.max_steps=1", "teacher.train.max_steps=1", "teacher.chance_check=false", "baseline=false"),
    *("hardware=cpu", "hardware.num_threads=1", "tracking=none", "teacher.vocab_size=300", "teacher.num_layers=1"),
)
PIECE = 10 * 2**20
"""Bytes: what the client writes at a time."""

DATA = ("task=sst2", "task.dataset=org/glue", "task.validation_size=20")


def call(folder: Path, endpoint: str, commands: list[tuple[str, ...]], **environment: str) -> list[list]:
    """Exit code, what stood in stderr, and seconds of each command."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "home"), "KDEXP_CACHE_DIR": str(folder / "cache")}
    variables = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    process = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env=variables
        | settings
        | {"no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        | measured_environment()
        | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert "TOLD" in process.stdout, process.stderr[-3000:]
    return json.loads(process.stdout.rpartition("TOLD")[2])


def refusal(answer: list) -> str:
    """The one line of a person's mistake."""
    code, err, _ = answer
    assert code == 2, err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


@pytest.fixture
def hub(tmp_path) -> Hub:
    """A tiny model under several names, and a tiny data set."""
    sys.path.insert(0, str(Path(__file__).parent / "training"))
    from tiny_models import TOKENIZER, bert

    root = tmp_path / "served"
    for name in ("tiny", "private", "cut", "slow", "dying"):
        folder = root / "models" / "org" / name
        # The client keeps what came in whole pieces: what is to be resumed has to be larger.
        bert(num_labels=2, vocab_size=len(TOKENIZER) if name != "cut" else 400_000).save_pretrained(folder)
        TOKENIZER.save_pretrained(folder)
    data = root / "datasets" / "org" / "glue" / "sst2"
    data.mkdir(parents=True)
    words = ("good film", "bad plot", "superb actor", "dull film")
    for split, size in (("train", 80), ("validation", 12)):
        rows = "".join(f"the {words[number % 4]} {number},{1 - number % 2}\n" for number in range(size))
        (data / f"{split}.csv").write_text("sentence,label\n" + rows, encoding="utf-8")
    lines = [f"  - {{split: {split}, path: sst2/{split}.csv}}" for split in ("train", "validation")]
    card = ["---", "configs:", "- config_name: sst2", "  data_files:", *lines, "---", ""]
    (data.parent / "README.md").write_text("\n".join(card), encoding="utf-8")
    return Hub(root, private={"org/private"}, slow={"org/slow"}, dying={"org/dying"})


@pytest.mark.slow
@pytest.mark.measured
def test_a_persons_commands(tmp_path, hub):
    model = hub.commit("models", "org/tiny")
    data = (*DATA, f"task.revision={hub.commit('datasets', 'org/glue')}")
    happy = (*data, "student.checkpoint=org/tiny", f"student.revision={model}", "student.max_length=16", *QUICK)
    hub.cut = {"model.safetensors"}  # whoever asks first: the run of org/cut

    def of(name: str, *more: str) -> tuple[str, ...]:
        return (*data, f"student.checkpoint=org/{name}", "student.max_length=16", *QUICK, *more)

    with serving(hub):
        answers = call(
            tmp_path,
            hub.endpoint,
            [
                of("cut"),
                happy,
                of("tiny", f"student.revision={'0' * 40}"),
                (*DATA, f"task.revision={'0' * 40}", *QUICK),
                of("missing"),
                (*DATA, "task.dataset=org/missing", "task.revision=null", *QUICK),
                (*DATA, "task.subset=cola", "task.revision=null", *QUICK),
                of("private"),
                (f"$HF_TOKEN={TOKEN}", *of("private")),
                of("slow"),
                of("dying"),
            ],
        )
    cut, done, *refused, private, with_token, slow, dying = answers
    for code, err, _ in (cut, done, with_token, slow):
        assert code == 0, err
    resumed = [
        (method, place)
        for method, path, place in hub.requests
        if "/cut/resolve" in path and path.endswith("safetensors")
    ]
    assert ("GET", f"bytes={PIECE}-") in resumed, resumed
    assert refusal(refused[0]) == (
        "error: student.checkpoint: cannot load org/tiny: there is no such revision of it; "
        "check student.revision: a commit, branch or tag that it has"
    )
    assert "cannot load org/glue" in refusal(refused[1])
    assert "check task.revision" in refusal(refused[1])
    assert refusal(refused[2]).startswith("error: student.checkpoint: cannot load org/missing")
    assert "cannot load org/missing" in refusal(refused[3])
    assert "cannot load org/glue" in refusal(refused[4])
    assert "sst2" in refusal(refused[4])  # the subsets that there are
    assert "HF_TOKEN" in refusal(private)
    assert "cannot load org/dying" in refusal(dying)
    assert TOKEN not in json.dumps(answers)

    # Nothing answers any more: what was loaded is there, the rest is refused at once with what to do instead.
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        kept, *refused = call(tmp_path, hub.endpoint, [happy, of("other"), ("task=ag_news", *QUICK)], **environment)
        assert kept[0] == 0, kept[1]
        for answer, alternative in zip(refused, ("student=bert", "task=reviews"), strict=True):
            assert alternative in refusal(answer)
            assert answer[2] < 5, answer
