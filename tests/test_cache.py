"""The cache: keys, locks, kills, damage and full disks, with real files and real processes."""

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import pytest
import torch
from forked import context
from safetensors.torch import save

from kdexp.cache import Cache
from kdexp.entries import CACHE_FORMAT, Key
from kdexp.errors import UserError
from kdexp.fingerprint import content_key, texts_fingerprint, weights_fingerprint

PARTS = {"teacher": "roberta", "length": 128, "columns": ["premise", "hypothesis"]}
KEY = Key("any", PARTS).digest
LOGITS = {"logits": torch.arange(12.0).reshape(4, 3)}

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals and limits")


def kept(root: Path) -> list[str]:
    """What lies in the cache beside the lock files, two levels deep."""
    return sorted(path.name for path in root.glob("*/*") if path.suffix != ".lock")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.01)


# ---- keys and fingerprints ----


def test_key_is_stable_across_versions_and_order() -> None:
    # A literal, because a key that changes by accident makes everybody compute everything again.
    assert content_key({"b": [1, None, {"c": True}], "a": "é"}) == "e5add4914f265bd5b27c7bd154b2a7cd"
    assert content_key({"a": "é", "b": [1, None, {"c": True}]}) == content_key({"b": [1, None, {"c": True}], "a": "é"})


def test_key_tells_values_and_types_apart() -> None:
    values = [1, 1.0, True, "1", None, "None", [1], [[1]], {"1": 1}, 2, "", [], {}, 0.1, -0.0, 0.0, "true"]
    keys = [content_key({"value": value}) for value in values] + [content_key({"other": 1}), content_key({})]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 32 for key in keys)


@pytest.mark.parametrize("value", [(1, 2), {1, 2}, Path("a"), b"a", torch.tensor(1), {1: "a"}, {"a": [{"b": ()}]}, 1j])
def test_key_refuses_what_json_would_not_give_back(value: object) -> None:
    with pytest.raises(TypeError, match="a key's parts"):
        content_key({"value": value})


def test_texts_fingerprint_sees_every_boundary() -> None:
    columns: list[tuple] = [
        (),
        (None,),
        ([],),
        ([""],),
        (["", ""],),
        (["ab", "c"],),
        (["a", "bc"],),
        (["abc"],),
        (["ab"], ["c"]),
        (["ab", "c"], None),
        (["ab", "c"], []),
        (None, ["ab", "c"]),
        (["c", "ab"],),
        (["2:ab1:c"],),
        (["\ud800"],),
        (["\udfff"],),
        (["é"],),
        (["e\u0301"],),
    ]
    for one, other in combinations(columns, 2):
        assert texts_fingerprint(*one) != texts_fingerprint(*other), (one, other)
    assert texts_fingerprint(["ab", "c"], None) == texts_fingerprint(("ab", "c"), None)


def test_weights_fingerprint_sees_bits_names_dtypes_and_shapes() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    one_bit = weight.clone()
    one_bit.view(torch.int32)[1, 2] ^= 1
    variants = [
        {"a": weight},
        {"a": one_bit},
        {"b": weight},
        {"a": weight.reshape(3, 2)},
        {"a": weight.view(torch.int32)},
        {"a": weight, "b": weight},
        {"a": weight.bfloat16()},
        {"a": weight.half()},
        {"a": torch.tensor(0.0)},
        {"a": torch.tensor(-0.0)},
        {"a": torch.zeros(1)},
        {"a": torch.zeros(0, 3)},
        {"a": torch.zeros(3, 0)},
        {"a": torch.tensor([True, False])},
        {},
    ]
    fingerprints = [weights_fingerprint(variant) for variant in variants]
    assert len(set(fingerprints)) == len(variants)


def test_weights_fingerprint_does_not_depend_on_storage_or_order() -> None:
    weight = torch.arange(6.0, dtype=torch.bfloat16).reshape(2, 3)
    stored_otherwise = torch.nn.Parameter(weight.t().contiguous().t())  # same values, other strides, wants grad
    sliced = torch.cat([weight, weight])[2:]
    expected = weights_fingerprint({"a": weight, "b": torch.tensor(1)})
    assert weights_fingerprint({"b": torch.tensor(1), "a": stored_otherwise}) == expected
    assert weights_fingerprint({"b": torch.tensor(1), "a": sliced}) == expected


# ---- computing once, within one process ----


def test_tensors_are_computed_once_and_read_back_exactly(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    computed = {
        "half": base.bfloat16(),
        "transposed": base.t(),
        "same_memory": base,
        "rows": base[:2],
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "wants_grad": torch.nn.Parameter(base.clone()),
    }
    calls = []

    def compute(work: Path) -> dict[str, torch.Tensor]:
        calls.append(work)
        return computed

    first = Cache(tmp_path).tensors("logits", PARTS, compute)
    second = Cache(tmp_path).tensors("logits", dict(reversed(PARTS.items())), compute)
    assert (first.hit, second.hit, len(calls)) == (False, True, 1)
    for entry in (first, second):
        assert entry.tensors.keys() == computed.keys()
        for name, tensor in computed.items():
            assert entry.tensors[name].dtype == tensor.dtype
            assert torch.equal(entry.tensors[name], tensor)
    assert kept(tmp_path) == [first.key]
    parts = json.loads((tmp_path / "logits" / first.key / "parts.json").read_text())
    assert parts == {"format": CACHE_FORMAT, **PARTS}


def test_folder_is_built_once_with_everything_below_it(tmp_path: Path) -> None:
    def build(target: Path, work: Path) -> None:
        (target / "sub").mkdir()
        (target / "sub" / "vocab.txt").write_text("a b")
        (target / "parts.json").write_text("its own")  # does not collide with the cache's own files
        (work / "checkpoint").write_text("1")

    first = Cache(tmp_path).folder("teacher", PARTS, build)
    second = Cache(tmp_path).folder("teacher", PARTS, build)
    assert (first.hit, second.hit) == (False, True)
    assert first.path == second.path
    assert (second.path / "sub" / "vocab.txt").read_text() == "a b"
    assert (second.path / "parts.json").read_text() == "its own"
    assert kept(tmp_path) == [first.key]


def test_changed_parts_and_kinds_are_other_entries(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    first = cache.tensors("logits", PARTS, lambda work: LOGITS)
    longer = cache.tensors("logits", PARTS | {"length": 256}, lambda work: {"logits": LOGITS["logits"] + 1})
    other_kind = cache.tensors("baseline", PARTS, lambda work: {"accuracy": torch.tensor(0.5)})
    assert not longer.hit
    assert not other_kind.hit
    assert first.key != longer.key
    assert torch.equal(cache.tensors("logits", PARTS, lambda work: {}).tensors["logits"], LOGITS["logits"])


def test_forgotten_entries_and_work_are_computed_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.forget("logits", PARTS)  # nothing there yet
    cache.tensors("logits", PARTS, lambda work: LOGITS)
    other = cache.tensors("logits", PARTS | {"length": 256}, lambda work: LOGITS)
    (tmp_path / "logits" / f"{KEY}.work").mkdir()
    cache.forget("logits", PARTS)
    assert kept(tmp_path) == [other.key]
    assert not cache.tensors("logits", PARTS, lambda work: LOGITS).hit


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bug"),
        KeyboardInterrupt(),
        PermissionError(errno.EACCES, "elsewhere"),
        UserError("a", "b", "c"),
    ],
)
def test_errors_of_the_computation_pass_unchanged_and_keep_work(tmp_path: Path, error: BaseException) -> None:
    def fail(target: Path, work: Path) -> None:
        (target / "half").write_text("half")
        (work / "checkpoint").write_text("1")
        raise error

    with pytest.raises(type(error)) as raised:
        Cache(tmp_path).folder("teacher", PARTS, fail)
    assert raised.value is error
    key = KEY
    assert kept(tmp_path) == [f"{key}.work"]

    def succeed(target: Path, work: Path) -> None:
        assert list(target.iterdir()) == []
        (target / "model").write_text((work / "checkpoint").read_text())

    entry = Cache(tmp_path).folder("teacher", PARTS, succeed)
    assert (entry.path / "model").read_text() == "1"
    assert kept(tmp_path) == [key]


# ---- find, claim, commit ----


def test_an_entry_is_found_once_it_is_committed(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), Key("teachers", PARTS)
    assert cache.find(key) is None
    claim = cache.claim(key)
    assert claim is not None
    assert cache.claim(Key("teachers", PARTS)) is None
    assert cache.claim(Key("teachers", PARTS | {"length": 1})) is not None
    work = cache.workspace(key)
    (work / "checkpoint").write_text("1")

    def write(target: Path) -> None:
        assert cache.find(key) is None
        (target / "model").write_text((cache.workspace(key) / "checkpoint").read_text())

    path = cache.commit(claim, write)
    assert cache.find(key) == path
    assert (path / "model").read_text() == "1"
    assert kept(tmp_path) == [key.digest]
    assert cache.claim(key) is None
    claim.release()
    with cache.claim(key) as again:  # a second computation changes nothing
        assert cache.commit(again, lambda target: (target / "model").write_text("2")) == path
    assert (path / "model").read_text() == "1"


def test_a_claim_is_released_and_work_stays_when_writing_fails(tmp_path: Path) -> None:
    cache, key = Cache(tmp_path), Key("teachers", PARTS)
    (cache.workspace(key) / "checkpoint").write_text("1")
    with pytest.raises(ZeroDivisionError), cache.claim(key) as claim:
        cache.commit(claim, lambda target: 1 / 0)
    assert cache.find(key) is None
    assert kept(tmp_path) == [f"{key.digest}.work"]
    assert cache.claim(key) is not None
    assert (cache.workspace(key) / "checkpoint").read_text() == "1"


def test_unchanged_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, key = Cache(tmp_path), Key("logits", PARTS)
    cache.tensors("logits", PARTS, lambda work: LOGITS)
    path = tmp_path / "logits" / key.digest / "files" / "tensors.safetensors"
    hashed = []
    digest = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(file.name) or digest(file, name))
    assert cache.find(key)
    assert cache.find(key)
    assert len(hashed) == 2  # just written: it may change again within what a coarse clock calls the same moment
    monkeypatch.setattr("kdexp.fingerprint._COARSEST_CLOCK_NS", 0)
    assert cache.find(key)
    assert cache.find(key)
    assert cache.tensors("logits", PARTS, lambda work: {}).hit
    assert len(hashed) == 3
    before = path.stat()
    time.sleep(0.05)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the same size and time, and the same inode
    assert cache.find(key) is None


# ---- damage ----


def flip_a_bit(entry: Path) -> None:
    path = entry / "files" / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def use_the_name_of_another(entry: Path) -> None:
    parts = json.loads((entry / "parts.json").read_text())
    (entry / "parts.json").write_text(json.dumps(parts | {"length": 127}))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped bit": flip_a_bit,
    "truncated": lambda entry: os.truncate(entry / "files" / "tensors.safetensors", 40),
    "missing file": lambda entry: (entry / "files" / "tensors.safetensors").unlink(),
    "additional file": lambda entry: (entry / "files" / "adapter_config.json").write_text("{}"),
    "other parts": use_the_name_of_another,
    "parts of no sense": lambda entry: (entry / "parts.json").write_text("[1]"),
    "missing parts": lambda entry: (entry / "parts.json").unlink(),
    "unreadable manifest": lambda entry: (entry / "manifest.json").write_bytes(b"\xff\x00"),
    "empty manifest": lambda entry: (entry / "manifest.json").write_text(""),
    "missing manifest": lambda entry: (entry / "manifest.json").unlink(),
    "nested parts": lambda entry: (entry / "parts.json").write_text("[" * 100_000 + "]" * 100_000),
    "nested manifest": lambda entry: (entry / "manifest.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000),
    "folder for a file": lambda entry: ((entry / "parts.json").unlink(), (entry / "parts.json").mkdir()),
}


def forge(entry: Path, tensors: dict[str, torch.Tensor] | bytes) -> None:
    """Put other data into an entry, and a manifest that says so."""
    path = entry / "files" / "tensors.safetensors"
    path.write_bytes(tensors if isinstance(tensors, bytes) else save(tensors))
    manifest = {path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]}
    (entry / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "forged",
    [
        {"logits": torch.zeros(4, 2)},
        {"logits": torch.zeros(3, 3)},
        {"other": torch.zeros(4, 3)},
        {},
        b"",
        b"\x00" * 99,
    ],
)
def test_whole_files_that_do_not_fit_are_built_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, forged: dict[str, torch.Tensor] | bytes
) -> None:
    cache = Cache(tmp_path)

    def fit(tensors: Mapping[str, torch.Tensor]) -> bool:
        return "logits" in tensors and tensors["logits"].shape == (4, 3)

    key = cache.tensors("logits", PARTS, lambda work: LOGITS, fit).key
    forge(tmp_path / "logits" / key, forged)
    again = cache.tensors("logits", PARTS, lambda work: LOGITS, fit)
    assert torch.equal(again.tensors["logits"], LOGITS["logits"])
    assert not again.hit
    assert "does not hold what it should and is built again" in caplog.text
    assert cache.tensors("logits", PARTS, lambda work: LOGITS, fit).hit


@pytest.mark.parametrize("damaged", [b"\xff\xfe\x00\x01", b"", b"not a name", b"0" * 33])
def test_a_damaged_identity_is_written_again(tmp_path: Path, damaged: bytes) -> None:
    (tmp_path / "identity").write_bytes(damaged)
    name = Cache(tmp_path).identity()
    assert len(name) == 32
    assert Cache(tmp_path).identity() == name
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == ["identity"]


def test_proving_that_it_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    Cache(tmp_path / "cache").ensure_writable()
    assert list((tmp_path / "cache").iterdir()) == []


@posix_only
def test_a_group_may_share_a_cache(tmp_path: Path) -> None:
    """With umask 002, as docs/troubleshooting.md says, all that is made can be written by the group."""
    before = os.umask(0o002)
    try:
        cache = Cache(tmp_path / "cache")
        cache.ensure_writable()
        cache.identity()
        cache.tensors("logits", PARTS, lambda work: LOGITS)
        with cache.lock("jobs", "a"):
            pass
    finally:
        os.umask(before)
    made = [cache.root, *cache.root.rglob("*")]
    assert len(made) > 6
    assert [path for path in made if not path.stat().st_mode & 0o020] == []


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_once_and_repaired(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    cache = Cache(tmp_path)
    key = cache.tensors("logits", PARTS, lambda work: LOGITS).key
    DAMAGES[damage](tmp_path / "logits" / key)
    again = cache.tensors("logits", PARTS, lambda work: LOGITS)
    assert not again.hit
    assert torch.equal(again.tensors["logits"], LOGITS["logits"])
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert key in warning.getMessage()
    assert cache.tensors("logits", PARTS, lambda work: LOGITS).hit


def test_hidden_files_of_desktops_and_nfs_are_no_damage(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    entry = cache.folder("teacher", PARTS, lambda target, work: None)
    (entry.path / ".DS_Store").write_text("x")
    assert cache.folder("teacher", PARTS, lambda target, work: None).hit


# ---- several processes ----


def log_and_compute(root: Path, name: str) -> None:
    """Compute an entry in a process of its own, which tells what it does, and is told to end, by files."""
    logging.basicConfig(filename=root.parent / f"{name}.log", level=logging.INFO)

    def compute(work: Path) -> dict[str, torch.Tensor]:
        (work / f"checkpoint-of-{name}").write_text(name)
        with (root.parent / "computed").open("a") as computed:
            computed.write(f"{name}\n")
        wait_for((root.parent / f"{name}.go").exists)
        return {"seen": torch.tensor(sorted(ord(path.name[-1]) for path in work.iterdir()))}

    entry = Cache(root).tensors("logits", PARTS, compute)
    (root.parent / f"{name}.result").write_text(json.dumps([entry.hit, entry.tensors["seen"].tolist()]))


@pytest.fixture
def first_and_second(tmp_path: Path) -> Iterator[list[multiprocessing.process.BaseProcess]]:
    """Two processes that want the same entry: `a` computes it, `b` waits for it."""
    started = [context.Process(target=log_and_compute, args=(tmp_path / "cache", name)) for name in "ab"]
    started[0].start()
    wait_for((tmp_path / "computed").exists)
    started[1].start()
    log = tmp_path / "b.log"
    wait_for(lambda: log.exists() and "waiting for another process" in log.read_text())
    yield started
    for process in started:
        process.kill()
        process.join()


def result_of(process: multiprocessing.process.BaseProcess, path: Path) -> object:
    process.join(60)
    assert process.exitcode == 0
    return json.loads(path.read_text())


def test_processes_that_want_the_same_compute_it_once(tmp_path: Path, first_and_second: list) -> None:
    (tmp_path / "a.go").touch()
    assert result_of(first_and_second[0], tmp_path / "a.result") == [False, [ord("a")]]
    assert result_of(first_and_second[1], tmp_path / "b.result") == [True, [ord("a")]]
    assert (tmp_path / "computed").read_text() == "a\n"
    assert (tmp_path / "b.log").read_text().count("waiting") == 1
    assert "waiting" not in (tmp_path / "a.log").read_text()


@posix_only
def test_the_one_that_waits_continues_the_work_of_a_killed_one(tmp_path: Path, first_and_second: list) -> None:
    os.kill(first_and_second[0].pid, signal.SIGKILL)
    (tmp_path / "b.go").touch()
    assert result_of(first_and_second[1], tmp_path / "b.result") == [False, [ord("a"), ord("b")]]
    assert (tmp_path / "computed").read_text() == "a\nb\n"
    assert kept(tmp_path / "cache") == [KEY]


def build_and_be_killed(root: Path, moment: str) -> None:
    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    replace = os.replace
    if moment == "before the rename":
        os.replace = kill  # type: ignore[assignment]
    if moment == "after the rename":
        os.replace = lambda *paths: (replace(*paths), kill())  # type: ignore[assignment]

    def build(target: Path, work: Path) -> None:
        (work / "checkpoint").write_text("1")
        (target / "model").write_text("half")
        if moment == "while writing":
            kill()
        (target / "model").write_text("half and half")

    Cache(root).folder("teacher", PARTS, build)


@posix_only
@pytest.mark.parametrize("moment", ["while writing", "before the rename", "after the rename"])
def test_killed_at_any_moment_leaves_all_or_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, moment: str
) -> None:
    process = context.Process(target=build_and_be_killed, args=(tmp_path, moment))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    key = KEY
    assert f"{key}.work" in kept(tmp_path)
    assert len(kept(tmp_path)) == 2  # and the temporary, or the entry

    def build(target: Path, work: Path) -> None:
        assert (work / "checkpoint").read_text() == "1"
        (target / "model").write_text("half and half")

    entry = Cache(tmp_path).folder("teacher", PARTS, build)
    assert entry.hit == (moment == "after the rename")
    assert (entry.path / "model").read_text() == "half and half"
    assert kept(tmp_path) == [key]
    assert not caplog.records  # a leftover is no damage


# ---- a place that cannot be used ----


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "kdexp-test", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("not allowed to mount a small disk here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill_with_a_file(target: Path, work: Path) -> None:
    (target / "model").write_bytes(bytes(2_000_000))


def fill_with_safetensors(target: Path, work: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(500_000)}, target / "model.safetensors")


def fill_with_a_checkpoint(target: Path, work: Path) -> None:
    torch.save({"a": torch.zeros(500_000)}, work / "optimizer.pt")


@pytest.mark.parametrize("fill", [fill_with_a_file, fill_with_safetensors, fill_with_a_checkpoint])
def test_full_disk_is_told_and_leaves_only_work(small_disk: Path, fill: Callable[[Path, Path], None]) -> None:
    cache = Cache(small_disk / "cache")
    cache.ensure_writable()
    with pytest.raises(UserError, match=r"^cache_dir: cannot use .*no room left .*cache_dir=<folder>$"):
        cache.folder("teacher", PARTS, fill)
    assert kept(cache.root) == [f"{KEY}.work"]


def test_full_disk_while_tensors_are_written(small_disk: Path) -> None:
    cache = Cache(small_disk / "cache")
    with pytest.raises(UserError, match="no room left"):
        cache.tensors("logits", PARTS, lambda work: {"logits": torch.zeros(500_000)})
    assert not cache.tensors("logits", PARTS, lambda work: LOGITS).hit
    (small_disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(OSError, match="No space left"), (small_disk / "more").open("wb") as ballast:
        ballast.write(bytes(200_000))
    with pytest.raises(UserError, match="cannot use"):
        cache.ensure_writable()
    assert cache.tensors("logits", PARTS, lambda work: LOGITS).hit


def test_read_only_cache_serves_what_it_holds_and_refuses_the_rest(small_disk: Path) -> None:
    cache = Cache(small_disk / "cache")
    cache.tensors("logits", PARTS, lambda work: LOGITS)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert cache.tensors("logits", PARTS, lambda work: LOGITS).hit
    with pytest.raises(UserError, match="Read-only file system"):
        cache.tensors("logits", PARTS | {"length": 1}, lambda work: pytest.fail("computed for nothing"))
    with pytest.raises(UserError, match="Read-only file system"):
        cache.ensure_writable()


def write_beyond_a_limit(root: Path, limit: int, report: Path) -> None:
    import resource

    cache = Cache(root)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        cache.ensure_writable()
        cache.tensors("logits", PARTS, lambda work: {"logits": torch.zeros(100_000)})
    except UserError as error:
        message = f"{error} / {kept(root)}"
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        report.write_text(message)


@posix_only
@pytest.mark.parametrize("limit", [100, 8192])
def test_limit_on_the_size_of_files(tmp_path: Path, limit: int) -> None:
    root, report = tmp_path / "cache", tmp_path / "report"
    process = context.Process(target=write_beyond_a_limit, args=(root, limit, report))
    process.start()
    process.join(60)
    left = [] if limit == 100 else [f"{KEY}.work"]
    assert report.read_text().startswith(f"cache_dir: cannot use {root}: ")
    assert "File too large" in report.read_text()
    assert report.read_text().endswith(f"/ {left}")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_checkpoints_that_find_no_room_are_the_places_fault(tmp_path: Path, number: int) -> None:
    def compute(work: Path) -> dict[str, torch.Tensor]:
        raise OSError(number, os.strerror(number))  # a quota cannot be set up for a test

    with pytest.raises(UserError, match="no room left"):
        Cache(tmp_path).tensors("logits", PARTS, compute)


@pytest.mark.parametrize("blocked", ["cache", "cache/logits", "."])
def test_file_where_a_folder_should_be(tmp_path: Path, blocked: str) -> None:
    top = tmp_path / "top"
    (top / blocked).parent.mkdir(exist_ok=True, parents=True)
    (top / blocked).write_text("a file")
    cache = Cache(top / "cache")
    with pytest.raises(UserError, match=r"^cache_dir: cannot use .*; make room there or choose"):
        cache.tensors("logits", PARTS, lambda work: pytest.fail("computed for nothing"))
    if blocked != "cache/logits":
        with pytest.raises(UserError, match=r"^cache_dir: cannot use"):
            cache.ensure_writable()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc refuses new folders even to root")
def test_unwritable_place_is_refused_early() -> None:
    with pytest.raises(UserError, match="cannot use /proc/kdexp"):
        Cache(Path("/proc/kdexp")).ensure_writable()


def test_ensure_writable_leaves_an_empty_root(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "new" / "cache")
    cache.ensure_writable()
    cache.ensure_writable()
    assert list(cache.root.iterdir()) == []


def test_what_killed_processes_left_is_removed(tmp_path):
    left = [tmp_path / ".probe-12", tmp_path / ".identity-ab"]
    for path in [*left, tmp_path / ".identity-new"]:
        path.touch()
    for path in left:
        os.utime(path, (1, 1))
    Cache(tmp_path).ensure_writable()
    assert [path.name for path in tmp_path.iterdir()] == [".identity-new"]


def test_what_cannot_be_loaded_is_built_again(tmp_path, caplog):
    cache, parts = Cache(tmp_path), {"a": 1}

    def load(folder):
        return json.loads((folder / "facts.json").read_text())["number"]

    def build(target, work):
        (target / "facts.json").write_text('{"number": 3}')

    cache.folder("facts", parts, lambda target, work: (target / "facts.json").write_text("{}"))
    entry, number = cache.loaded("facts", parts, build, load)
    assert (entry.hit, number) == (False, 3)
    assert "does not hold what it should and is built again" in caplog.text
    assert cache.loaded("facts", parts, build, load)[0].hit

    def unlucky(folder):
        raise MemoryError

    with pytest.raises(MemoryError):
        cache.loaded("facts", parts, build, unlucky)
    with pytest.raises(KeyError):  # what was just built is what it is
        cache.loaded("facts", {"a": 2}, lambda target, work: (target / "facts.json").write_text("{}"), load)
