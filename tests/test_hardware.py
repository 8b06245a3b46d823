"""How many threads compute: by the model, within what the machine leaves, and never by luck."""

import os

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from kdexp import hardware
from kdexp.hardware import HardwareConfig, available_cores, prepare_hardware


def bert(hidden_size, num_layers, vocab_size=800):
    return BertForSequenceClassification(
        BertConfig(
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            intermediate_size=4 * hidden_size,
            vocab_size=vocab_size,
            max_position_embeddings=32,
        )
    )


STUDENT, TEACHER, WORDY, LARGE = bert(24, 1), bert(64, 2), bert(24, 1, vocab_size=30000), bert(128, 3)


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(hardware, "_quota", lambda: float("inf"))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("settings", "compact", "large"),
    [({}, 1, 4), ({"num_parallel": 2}, 1, 2), ({"num_parallel": 9}, 1, 1), ({"num_threads": 3}, 3, 3)],
)
def test_compact_models_get_one_thread(four_cores, settings, compact, large):
    found = prepare_hardware(HardwareConfig(device="cpu", **settings))
    assert [found.num_threads_for(model) for model in (STUDENT, TEACHER, WORDY)] == [compact] * 3
    assert found.num_threads_for(LARGE) == large
    assert found.num_threads_for(STUDENT, LARGE) == large  # forwarded beside a teacher that is large
    with found.threads_for(STUDENT):
        assert torch.get_num_threads() == compact
        with found.threads_for(LARGE):
            assert torch.get_num_threads() == large
        assert torch.get_num_threads() == compact


@pytest.mark.parametrize(
    ("files", "groups", "cores"),
    [
        ({"cpu.max": "200000 100000"}, "0::/", 2),
        ({"cpu.max": "max 100000"}, "0::/", 4),
        ({"cpu.max": "150000 100000"}, "0::/", 1),  # a second thread would be throttled half of the time
        ({"cpu.max": "20000 100000"}, "0::/", 1),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b", 3),  # what is above counts too
        ({"cpu.max": "200000 100000"}, "0::/docker/of/the/host", 2),
        ({"cpu/x/cpu.cfs_quota_us": "200000", "cpu/x/cpu.cfs_period_us": "100000"}, "4:memory:/\n1:cpu:/x", 2),
        (
            {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            "2:cpu,cpuacct:/\n0::/",
            4,
        ),
        ({"cpu.max": "nonsense"}, "0::/", 4),
        ({}, "0::/", 4),
        ({}, None, 4),
    ],
)
def test_the_quota_of_a_container_is_respected(tmp_path, monkeypatch, files, groups, cores):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    if groups is not None:
        (tmp_path / "groups").write_text(groups + "\n")
    quota = hardware._quota(tmp_path, tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr(hardware, "_quota", lambda: quota)
    assert available_cores() == cores
