"""What cannot be read as typed is told with what to type."""

import shlex

import pytest
from hydra._internal.utils import get_args_parser

from kdexp import compose
from kdexp.cli.arguments import FLAGS_WITH_VALUE, INFO_TOPICS, expand_home, flags_first
from kdexp.cli.explain import quoted
from kdexp.errors import UserError

NAMES = [
    "my file (1).csv",
    "größe.csv",
    "データ.csv",
    "a=b.csv",
    "a#b.csv",
    "it's.csv",
    'say "x".csv',
    "a&b;c!.csv",
    "[a].csv",
    "{a}.csv",
    "~user/x.csv",
    'back\\slash "q" \\.csv',
    "100 %, no <tags>.csv",
]


@pytest.mark.parametrize("name", NAMES)
def test_an_odd_file_name_is_told_with_the_quoting_that_works(name):
    with pytest.raises(UserError, match=r"^task\.train: (cannot read .* without quotes; write|got several)") as caught:
        compose("task=file", f"task.train={name}")
    message = str(caught.value)
    assert "Lexer" not in message
    assert "hydra" not in message
    (typed,) = shlex.split(quoted("task.train", name))
    assert quoted("task.train", name) in message
    assert compose("task=file", typed).task.train == name


@pytest.mark.parametrize("opening", ["'", '"'])
def test_an_open_quote_is_left_out_of_what_works(opening):
    with pytest.raises(UserError, match=r"write it with both kinds of quotes: 'task.train=\"my file.csv\"'$"):
        compose("task=file", f"task.train={opening}my file.csv")


def test_elements_of_a_list_are_quoted_one_by_one():
    with pytest.raises(UserError, match=r"task\.text: cannot read") as caught:
        compose("task=file", "task.train=a.csv", "task.text=[prämisse,my hypothesis]")
    typed = str(caught.value).partition("quotes: ")[2]
    assert compose("task=file", "task.train=a.csv", *shlex.split(typed)).task.text == ["prämisse", "my hypothesis"]
    with pytest.raises(UserError, match="close the bracket"):
        compose("task=file", "task.text=[a,b")


@pytest.mark.parametrize("word", ["foo", "größe", "my file.csv", "=größe"])
def test_a_word_that_sets_nothing_is_refused(word):
    with pytest.raises(UserError, match=r"^command line: got .*; expected setting=value, such as seed=1"):
        compose(word)


def test_home_works_without_quotes(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = compose("task=file", "task.train=~/a.csv", "cache_dir=~/cache", "task.text=[~/b,c]")
    assert config.task.train == "/home/me/a.csv"
    assert config.cache_dir == "/home/me/cache"
    assert config.task.text == ["/home/me/b", "c"]
    assert expand_home(["~teacher", "a=b~/c", "a=~/x,~/y"]) == ["~teacher", "a=b~/c", "a=/home/me/x,/home/me/y"]


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("resume", "maybe", "true or false"),
        ("baseline", "never", "true or false"),
        ("task.header", "maybe", "true or false"),
        ("tracking.enabled", "perhaps", "true or false"),
        ("seed", "x", "a whole number"),
        ("task.quoting", "maybe", "one of auto, quoted, plain"),
        ("teacher.finetune", "maybe", "true or false"),
    ],
)
def test_a_value_of_another_kind_is_told_what_is_expected(setting, value, expected):
    with pytest.raises(UserError, match=rf"^{setting}: got '{value}'; expected {expected}$"):
        compose("task=file", "task.train=a.csv", f"{setting}={value}")


def test_task_encoding_is_checked_with_its_path():
    with pytest.raises(UserError, match=r"^task.encoding: got klingon; expected utf-8, latin-1"):
        compose("task=file", "task.train=a.csv", "task.encoding=klingon")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("seed=0,1 -m", "-m seed=0,1"),
        ("seed=0,1 -m loss.alpha=0.5", "-m seed=0,1 loss.alpha=0.5"),
        ("a=1 --cfg job b=2", "--cfg job a=1 b=2"),
        ("a=1 -cd mine b=2 --multirun c=3", "-cd mine --multirun a=1 b=2 c=3"),
        ("a=1 --config-dir=mine b=2", "--config-dir=mine a=1 b=2"),
        ("a=1 --info b=2", "--info=all a=1 b=2"),
        ("a=1 --info plugins b=2", "--info plugins a=1 b=2"),
        ("~a +b=1 -r", "-r ~a +b=1"),
    ],
)
def test_flags_may_stand_anywhere(words, expected):
    assert flags_first(words.split()) == expected.split()
    parsed = get_args_parser().parse_args(flags_first(words.split()))
    assert parsed.overrides == [word for word in expected.split() if ("=" in word and "--" not in word) or "~" in word]


def test_hydras_flags_are_those_that_are_known():
    actions = get_args_parser()._actions
    with_value = {name for action in actions if action.nargs is None for name in action.option_strings}
    assert with_value == FLAGS_WITH_VALUE
    (topics,) = (action.choices for action in actions if "--info" in action.option_strings)
    assert set(topics) == INFO_TOPICS
