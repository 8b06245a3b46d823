"""What Hydra and OmegaConf refuse is told in kdexp's words, in one line, with what was probably meant."""

import fnmatch

import pytest

import kdexp
from kdexp.cli.flags import flags_first, repeated
from kdexp.cli.help import GROUPS
from kdexp.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["teacher=robert"], "teacher=robert: no such option; *(did you mean roberta?)"),
        (["loss=kdd"], "*(did you mean kd?)"),
        (["loss.alpa=1"], "*(did you mean loss.alpha?)"),
        (["teacher.train.epoch=1"], "*(did you mean teacher.train.epochs?)"),
        (["alpha=0.5"], "*(did you mean loss.alpha?)"),
        (["epochs=3"], "*(did you mean train.epochs or teacher.train.epochs?)"),
        (["learning_rat=1"], "*train.learning_rate*"),
        (["trian.epochs=2"], "*(did you mean train?)"),
        (["task.path=x"], "task.path: no such setting; *(another task has it: public)"),
        (["loss=mse", "loss.temperature=2"], "loss.temperature: *(another loss has it: kd, *"),
        (["zzz=1"], "zzz: no such setting; expected one of *, families, cross_family, *"),
        (["~train.epochs"], "~train.epochs: has nothing to remove; set it with train.epochs=<value>*"),
        (["~nope"], "~nope: no such setting*"),
        (["+seed=1"], "+seed: is a setting already; write it without +: seed=<value>"),
        (["study=${oc.env:NOPE}"], "${oc.env:NOPE}: the environment variable NOPE is not set; *"),
        (["study=${lose.alpha}"], "${lose.alpha}: refers to no setting; *"),
        (["study=${nope:3}"], "${nope:...}: no such resolver; *"),
        (["loss.terms=rkd"], "loss.terms: got a value of type str; expected terms by name: 'terms=[rkd,hidden]'"),
        (["loss.terms=[rkd]"], "loss.terms: got a list; expected terms by name: 'terms=[rkd,hidden]'"),
        (["train=[default,default]"], "train: *"),
        (["export=[none,onnx]"], "export: got [none,onnx], but none stands alone; remove none, or all beside it"),
        (["export=[onnx_int8, none]"], "export: got *, but none stands alone; *"),
    ],
)
def test_a_composition(overrides, expected):
    with pytest.raises(UserError) as error:
        kdexp.compose(*overrides)
    line = str(error.value)
    pattern = expected.replace("[", "[[]").replace("?", "[?]")
    assert fnmatch.fnmatchcase(line, pattern), line
    assert not any(word in line for word in ("full_key", "object_type", "OmegaConf", "hydra.cc", "parent_run"))


def test_a_list_of_terms_as_text_is_told():
    assert kdexp.compose("terms=rkd").loss.terms.keys() == {"rkd"}
    assert kdexp.compose("more_teachers=roberta").more_teachers.keys() == {"roberta"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--nope"], "--nope: no such flag; expected one of -m, "),
        (["--config-dirr", "x"], "(did you mean --config-dir?)"),
        (["-x"], "-x: no such flag"),
        (["--cfg", "nope"], "--cfg: got nope; expected one of job, hydra, all"),
        (["seed=1", "--cfg"], "--cfg: has no value; expected job or hydra or all"),
        (["-m", "--cfg", "job"], "--multirun: cannot go together with --cfg; --cfg shows the settings of one run"),
        (["--cfg", "job", "seed=1,2", "-m"], "--multirun: cannot go together with --cfg"),
        (["--cfg", "hydra", "--resolve"], "use --cfg all --resolve"),
        (["sumary"], "(did you mean kdexp summary?)"),
        (["seed"], "seed: is no setting=value; write seed=<value>"),
        (["seed=1", "=3"], "=3: is no setting=value"),
    ],
)
def test_flags_and_words(arguments, line):
    with pytest.raises(UserError) as error:
        flags_first(arguments)
    assert line in str(error.value)


def test_what_hydra_reads_is_left_alone():
    words = "seed=0,1 --config-dir mine -cd=x ~a +b=1 --info plugins --info c=3 --experimental-rerun x.pkl"
    flags_first(words.split())
    flags_first(["seed=0,1", "--multi"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["loss=kd", "loss=dkd"], "loss is given twice: dkd counts (for both: -m loss=kd,dkd)"),
        (["-m", "seed=0", "seed=1"], "seed is given twice: 1 counts (for both: seed=0,1)"),
        (["--multirun", "+a=0.5", "a=1"], "a is given twice: 1 counts (for both: a=0.5,1)"),
    ],
)
def test_two_answers_to_one_question(arguments, line):
    assert repeated(arguments, list(GROUPS)) == [line]


def test_two_studies_are_refused(command):
    line = command("experiment=search", "experiment=cross_family").refusal
    assert line == "error: experiment: is given twice, search and cross_family; name one"


def test_of_one_run_the_last_value_counts_without_a_word():
    assert repeated(["seed=0", "seed=1"], list(GROUPS)) == []
    assert repeated(["--multirun", "seed=0", "seed=0"], list(GROUPS)) == []
    assert kdexp.compose("seed=0", "seed=1").seed == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("parent_run=abc",), "error: tracking.uri: there is no sqlite:///"),
        (("trial=5",), "error: trial: got 5; leave it out: a search sets it for its jobs"),
        (("--nope",), "error: --nope: no such flag"),
        (("sumary",), "(did you mean kdexp summary?)"),
        (("summary", "study=nothing"), "error: tracking.uri: there is no sqlite:///"),
    ],
)
def test_a_command_is_refused_and_leaves_nothing(arguments, line, command, tmp_path):
    assert line in command(*arguments).refusal
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_a_parent_that_is_none(command, log_only):
    assert command("study=mine").code == 0
    assert (
        "parent_run: abc is no run of the study mine; leave it out" in command("study=mine", "parent_run=abc").refusal
    )


def test_the_version_is_kdexps(command):
    assert command("--version").out == f"kdexp {kdexp.__version__}\n"


@pytest.mark.parametrize("name", ["summary", "predict", "transplant"])
def test_a_command_has_help_of_its_own(name, command):
    answer = command(name, "--help")
    assert answer.code == 0
    assert answer.out.startswith(f"usage: kdexp {name} ")
    assert "docs/" in answer.out


def test_two_studies_to_sum_up_are_refused(command):
    assert "study: is given twice, a and b; name one" in command("summary", "a", "b").refusal
