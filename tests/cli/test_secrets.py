"""A password is nowhere: not in the terminal, not in a file, not in MLflow."""

import os

import pytest

from kdexp.cli.secrets import hide_secrets
from kdexp.tracking.secrets import is_secret_name, redact, reveal_uri
from kdexp.tracking.uri import resolve_uri

SECRET = "hunter2"
URIS = [
    f"http://me:{SECRET}@127.0.0.1:9",
    f"http://{SECRET}@127.0.0.1:9",
    f"http://127.0.0.1:9/?token={SECRET}",
    f"http://127.0.0.1:9/?a=1&access_token={SECRET}",
    f"postgresql://me:{SECRET}@127.0.0.1:9/runs",
    f"http://me:pa/{SECRET}@127.0.0.1:9",
    f"mysql+pymysql://127.0.0.1:9/runs?ssl_key_password={SECRET}",
]


def everything_left(tmp_path):
    return b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def quoted(uri):
    return f"tracking.uri='{uri}'" if "=" in uri else f"tracking.uri={uri}"


@pytest.mark.parametrize(("uri", "words"), [*((uri, ()) for uri in URIS), (URIS[0], ("-m", "seed=0,1"))])
def test_a_refused_uri(uri, words, command, tmp_path):
    answer = command(quoted(uri), *words)
    assert "tracking.uri" in answer.refusal
    assert SECRET not in answer.err + answer.out
    assert SECRET.encode() not in everything_left(tmp_path)


FORMS = {
    "command line": ("tracking.uri='{uri}'",),
    "added": ("++tracking.uri='{uri}'",),
    "unquoted": ("tracking.uri={uri}",),
    "environment": ("tracking.uri=${{oc.env:MY_URI}}",),
    "MLflow's environment": (),
    "Hydra's environment": ("+hydra.job.env_set.MLFLOW_TRACKING_PASSWORD=hunter2", "tracking.uri=${{oc.env:MY_URI}}"),
    "copied environment": ("hydra.job.env_copy=[MY_URI,HF_TOKEN,HOME]",),
    "a file": ("--config-dir", "own", "+mine=server"),
}


@pytest.mark.parametrize(
    ("form", "words"),
    [(form, ()) for form in FORMS] + [(form, ("-m", "seed=0,1")) for form in ("command line", "a file")],
)
def test_everything_that_a_run_leaves_behind(form, words, command, log_only, monkeypatch, tmp_path):
    """A server that takes any user is played by a file of that name."""
    real = f"sqlite:///{tmp_path}/mlflow.db"
    uri = f"http://me:{SECRET}@server:5000"
    seen = []

    def resolve(shown):
        found = resolve_uri(shown)
        seen.append(found)
        return real if "server" in found else found

    for module in ("run", "store", "uri"):
        monkeypatch.setattr(f"kdexp.tracking.{module}.resolve_uri", resolve)
    monkeypatch.setenv("MY_URI", uri)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    if form == "MLflow's environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "own" / "mine").mkdir(parents=True)
    file = tmp_path / "own" / "mine" / "server.yaml"
    file.write_text(f"# @package _global_\ntracking:\n  uri: {uri}\n")
    answer = command(*(argument.format(uri=uri) for argument in FORMS[form]), *words)
    assert answer.code == 0, answer.err
    file.unlink()
    if form != "copied environment":
        assert uri in seen
    assert list(tmp_path.glob("multirun/*/*/**/.hydra/config.yaml"))
    assert SECRET not in answer.err + answer.out
    assert SECRET.encode() not in everything_left(tmp_path)


def test_what_is_no_secret_stays_as_typed(monkeypatch):
    typed = ["tracking.uri=sqlite:///a.db", "task.train='a b.csv'", "hydra.job.env_set.OMP_NUM_THREADS=1", "-m"]
    assert hide_secrets(typed) == typed
    monkeypatch.setenv("KDEXP_TRACKING_URI", f"http://a:{SECRET}@x")
    assert resolve_uri("http://***@y") == "http://***@y"
    assert reveal_uri("http://***@x") == f"http://a:{SECRET}@x"
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:a/b@host/x", "http://***@host/x"),
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("sqlite:////home/me@work/x.db", "sqlite:////home/me@work/x.db"),
        ("http://h/?api-key=1&x=2", "http://h/?api-key=***&x=2"),
    ],
)
def test_what_is_shown_of_an_address(text, clean):
    assert redact(text) == clean


def test_names_of_secrets():
    assert all(map(is_secret_name, ["MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD"]))
    assert not any(map(is_secret_name, ["HOME", "OMP_NUM_THREADS"]))
