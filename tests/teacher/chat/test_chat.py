"""A chat endpoint as the teacher, against a real server on the loopback."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from chat_server import serving
from dripping_server import dripping

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.run import run
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.chat.client import endpoint
from kdexp.teacher.chat.teacher import load_chat
from kdexp.teacher.config import ChatMethod, ChatTeacherConfig
from kdexp.tracking.store import Study

NAMES = ["cold", "mild", "hot"]
TEXTS = ["icy", "warm", "scorching", "strange"]
WORDS = {
    "icy": {"Cold": 0.6, " col": 0.2, "mi": 0.1, "The": 0.1},
    "warm": {"mild": 0.5, "hot": 0.25, "h": 0.25},
    "scorching": {"Hot.": 0.9, "hotter": 0.05, "cold": 0.05},
    "strange": {"I": 0.9, "Sorry": 0.1},
}
PROMPT = "How is it? {text}"


def by_word(prompt, seed):
    return WORDS[prompt.split("? ")[1]]


def task(texts=TEXTS) -> Task:
    split = Split.from_lists(texts, labels=[0, 1, 2, 0][: len(texts)])
    return Task(name="heat", kind=SingleLabel(NAMES), train=split, validation=split, test=split, transfer=None)


@pytest.fixture
def ask(tmp_path):
    """Open the teacher behind a server, and ask it about the texts."""

    def open_it(server, asked=None, **settings):
        given = {"name": "chat", "model": "m", "prompt": PROMPT, "url": server.url, "retries": 2} | settings
        return load_chat("teacher", ChatTeacherConfig(**given), asked or task(), Cache(tmp_path / "cache"))[0]

    return open_it


def test_the_first_tokens_say_how_likely_each_word_is(ask):
    with serving(by_word) as server:
        teacher = ask(server)
        given = teacher.answer(task().train, "train")
        found = given.answers.values.exp().numpy()
        # "hotter" is another word, "The" none; "strange" names no class: nothing is known of it.
        assert np.allclose(found[:3], [[8 / 9, 1 / 9, 0], [0, 0.5, 0.5], [0.05 / 0.95, 0, 0.9 / 0.95]], atol=1e-5)
        assert given.answers.answered_rows.tolist() == [0, 1, 2]
        assert teacher.notices == ["1 of 4 answers on train name none of the classes (cold, mild, hot, ...)"]
        assert (given.num_forwarded, given.cost.requests, given.cost.tokens) == (4, 4, 20)
        assert set(server.seen.values()) == {1}  # that which was asked to find out is the answer, too
        again = ask(server).answer(task().train, "train")
        assert (again.num_forwarded, again.key, again.cost) == (0, given.key, given.cost)
        assert sum(server.seen.values()) == 4


def test_without_log_probabilities_answers_are_sampled_and_smoothed(ask):
    def rule(prompt, seed):
        return {"Hot, I think" if seed < 3 else "It is cold." if seed < 4 else "who knows, cold or mild": 1.0}

    with serving(rule, gives_logprobs=False) as server:
        teacher = ask(server, num_samples=5, smoothing=0.5)
        given = teacher.answer(task().train, "train")
        # Three say hot, one cold, one cannot be read.
        expected = np.array([1.5, 0.5, 3.5]) / 5.5
        assert np.allclose(given.answers.values.exp().numpy(), [expected] * 4, atol=1e-6)
        assert (given.num_forwarded, given.cost.requests) == (4, 20)
        assert set(server.seen.values()) == {1}
        assert any("20% of what it says is none of the classes" in line for line in teacher.notices)
    with serving(rule, gives_logprobs=None) as server:  # refuses them
        assert ask(server, model="other").answer(task().train, "train").cost.requests == 100 // 10 * 4


def test_what_decides_the_answers_is_in_the_key_and_how_they_are_asked_is_not(ask):
    with serving(by_word) as server:
        first = ask(server)
        assert ask(server, num_parallel=1, timeout=5.0, requests_per_minute=1e6).digest == first.digest
        others = [{"model": "n"}, {"prompt": "So? {text}"}, {"system": "s"}, {"floor": 1e-3}, {"num_samples": 3}]
        assert len({ask(server, **other).digest for other in others} | {first.digest}) == 6


def test_failures_are_tried_again_and_counted(ask, caplog):
    with serving(by_word) as server, caplog.at_level("INFO"):
        server.failures, server.retry_after = [500, 429, 0], "0"
        given = ask(server, retries=6, num_parallel=1).answer(task().train, "train")
        assert len(given.answers.answered_rows) == 3
    assert "3 of 7 requests of this run failed and were tried again" in caplog.text


def test_the_limits_of_trying_again_are_told_and_what_was_answered_is_kept(ask):
    with serving(by_word) as server:
        teacher = ask(server, method=ChatMethod.logprobs, num_parallel=1, retries=1)
        server.limit = None
        teacher._ask_all(dict(list(teacher._requests(ChatMethod.logprobs, "icy", None))))
        server.failures = [503] * 2
        with pytest.raises(UserError, match=r"teacher\.url: .* status 503: .* \(tried 2 times, teacher\.retries=1\)"):
            teacher.answer(task().train, "train")
        assert ask(server, method=ChatMethod.logprobs).answer(task().train, "train").num_forwarded == 3
        assert set(server.seen.values()) == {1}
        server.failures = [503]
        with pytest.raises(UserError, match=r"teacher\.total_retries=0"):
            ask(server, model="n", total_retries=0).answer(task().train, "train")


def test_an_endpoint_that_drips_has_a_limit(ask):
    """Each byte would begin the time that an answer may take anew."""
    told = r"teacher\.url: .* does not answer: .*timed out: no whole answer"
    with dripping() as address, pytest.raises(UserError, match=told):
        ask(SimpleNamespace(url=address), timeout=0.3, retries=0).answer(task().train, "train")


def test_the_key_comes_from_the_environment_and_is_never_shown(ask, monkeypatch):
    with serving(by_word, key="sk-secret-1") as server:
        monkeypatch.setenv("MY_KEY", "sk-wrong-2")
        with pytest.raises(UserError) as refused:
            ask(server, key_variable="MY_KEY").answer(task().train, "train")
        assert str(refused.value).startswith("teacher.key_variable: the endpoint refuses the key: status 401")
        assert "sk-wrong" not in str(refused.value)
        monkeypatch.setenv("MY_KEY", "sk-secret-1")
        assert ask(server, key_variable="MY_KEY").answer(task().train, "train").num_forwarded == 4


def test_requests_keep_to_a_rate(ask):
    with serving(by_word) as server:
        teacher = ask(server, requests_per_minute=600.0)
        started = time.perf_counter()
        teacher.answer(task().train, "train")
        assert time.perf_counter() - started >= 0.3


def test_runs_that_want_the_same_ask_once(ask):
    def slow(prompt, seed):
        time.sleep(0.05)
        return by_word(prompt, seed)

    with serving(slow) as server, ThreadPoolExecutor(3) as pool:
        teachers = [ask(server, num_parallel=1) for _ in range(3)]
        found = list(pool.map(lambda teacher: teacher.answer(task().train, "train"), teachers))
        assert sorted(item.num_forwarded for item in found) == [0, 0, 4]
        assert set(server.seen.values()) == {1}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://127.0.0.1:8000/v1/", "http://127.0.0.1:8000/v1/chat/completions"),
        ("https://host/api/chat/completions", "https://host/api/chat/completions"),
    ],
)
def test_where_requests_go(url, address):
    assert endpoint(url) == address


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"verbalizers": {"cold": "A", "mild": "B"}}, r"teacher\.verbalizers: no word for the class 'hot'"),
        ({"verbalizers": {"tepid": "A"}}, r"teacher\.verbalizers: no class 'tepid'; the classes are: cold"),
        (
            {"verbalizers": {"cold": "A", "mild": "A", "hot": "B"}},
            r"teacher\.verbalizers: two classes have the word",
        ),
        ({"verbalizers": {"cold": "a", "mild": "Ab", "hot": "c"}}, r"teacher\.verbalizers: 'ab' begins with 'a'"),
        ({"prompt": "How?"}, r"teacher\.prompt: does not say where the text stands: no {text}"),
        ({"prompt": "{text} {text_pair}"}, r"teacher\.prompt: has {text_pair}, but the task has single texts"),
        ({"url": "http://127.0.0.1:9/v1"}, r"teacher\.url: nothing answers at 127\.0\.0\.1:9"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_trained(ask, settings, line):
    with serving(by_word) as server, pytest.raises(UserError, match=line):
        ask(server, **settings)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "teacher.model: is not set"),
        (["teacher.url=8000"], "teacher.url: got 8000; expected an address"),
        (["teacher.url=http://me:hunter2@host/v1"], "teacher.url: http://***@host/v1 holds a secret"),
        (["teacher.url='http://host/v1?api_key=hunter2'"], "teacher.url: http://host/v1?api_key=*** holds a secret"),
        (
            ["teacher.url=http://h", "teacher.key_variable=sk-hunter2"],
            "teacher.key_variable: is no name",
        ),
        (["teacher.url=http://h", "teacher.top_logprobs=50"], "teacher.top_logprobs: got 50; expected"),
        (["teacher.url=http://h", "teacher.method=guess"], "teacher.method: got 'guess'; expected one of auto"),
        (
            ["teacher.url=http://h", "teacher.verbalizers=[a]"],
            "teacher.verbalizers: got ['a']; expected {cl",
        ),
    ],
)
def test_bad_settings_are_told_in_one_line(command, tmp_path, words, line):
    model = [] if not words else ["teacher.model=m"]
    answer = command(
        "teacher=openai_compatible", *model, "task.train_size=20", "hardware=cpu", "tracking=none", *words
    )
    assert answer.code == 2
    assert f"error: {line}" in answer.err
    written = [file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file()]
    assert "hunter2" not in "".join([answer.err, answer.out, *written]) or "key_variable" in line


HEAT = {"warm": "hot", "scorching": "hot", "icy": "cold", "freezing": "cold"}


def by_heat(prompt, seed):
    word = next(word for word in HEAT if word in prompt)
    likely = {"hot": {"hot": 0.9, "cold": 0.1}, "cold": {"hot": 0.2, "cold": 0.8}}
    return likely[HEAT[word]]


def words(folder: Path, url: str, *overrides: str) -> list[str]:
    rows = [f"it is {word} at {place},{label}" for place in range(30) for word, label in HEAT.items()]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return [
        *("task=file", f"task.train={folder}/rows.csv", "hardware=cpu", "hardware.num_threads=1", "train.epochs=1"),
        *(f"cache_dir={folder}/cache", f"tracking.uri=sqlite:///{folder}/mlflow.db", "tracking.log_model=false"),
        *("teacher=openai_compatible", f"teacher.url={url}", "teacher.model=m", *overrides),
    ]


@pytest.mark.usefixtures("own_folder", "empty_store")
def test_a_whole_run_asks_once_and_says_what_it_cost(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hunter2")
    with serving(by_heat, key="sk-hunter2") as server:
        config = compose(*words(tmp_path, server.url))
        record = run(config)
        assert record.score("test", "teacher") == 1
        assert set(server.seen.values()) == {1}
        assert sum(server.seen.values()) == 120
        assert record.costs["teacher_requests_per_1000_rows"] == 1000
        assert record.costs["teacher_tokens_per_1000_rows"] > 1000
    again = run(config)  # nobody is there any more, and nobody is needed
    assert again.score("test") == record.score("test")
    assert again.costs["teacher_rows_forwarded"] == 0
    stored = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").runs()[0]
    assert stored.params["teacher.model"] == "m"
    for file in [*tmp_path.rglob("*.db"), *tmp_path.rglob("*.sqlite"), *tmp_path.rglob("*.yaml")]:
        assert b"hunter2" not in file.read_bytes()


@pytest.mark.slow
def test_killed_half_way_and_started_again_the_server_has_seen_each_row_once(fork_server, tmp_path):
    with serving(by_heat) as server:
        server.limit = 50  # no request is read any more: the process is killed while it waits
        command = words(tmp_path, server.url, "tracking=none")
        process = fork_server.start(tmp_path, *command)
        deadline = time.monotonic() + 120
        while server.gate.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
        store = tmp_path / "cache" / "chat_answers" / "answers.sqlite"
        while _num_kept(store) < 51 and time.monotonic() < deadline:  # and how it is asked
            time.sleep(0.05)
        process.kill()
        assert sum(server.seen.values()) == 50
        server.limit = None
        server.gate.set()
        done = fork_server.call(tmp_path, *command)
        assert done.returncode == 0, done.stderr
        assert set(server.seen.values()) == {1}
        assert len(server.seen) == 120


def _num_kept(store: Path) -> int:
    import sqlite3

    try:
        return sqlite3.connect(store).execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
