"""Exported files: proved on the test split, measured as they ship, found again by an equal run."""

import importlib.util
import json

import numpy as np
import pytest
import torch
from command_line import SMALL

from kdexp import compose, distil
from kdexp.errors import UserError
from kdexp.export.config import OnnxInt8
from kdexp.export.files import Source, export_student
from kdexp.export.graph import _Logits
from kdexp.tracking.store import Study

SPEEDS = {"p50_ms", "p99_ms", "texts_per_second"}


def shipped_folder(exported, name):
    """The folder of a format, in the cache."""
    for parts in (exported.folder / "cache" / "exports").glob("*/parts.json"):
        if json.loads(parts.read_text())["file"] == name:
            return parts.parent / "files" / "model"
    raise AssertionError(f"no export {name}")


def test_each_file_is_measured_as_it_ships_beside_torch_and_teacher(exported):
    record = exported.record
    assert set(record.shipped) == {"torch", "teacher", "onnx", "onnx_int8"}
    assert record.score("test", "export/onnx") == record.score("test")
    onnx, int8 = record.shipped["onnx"], record.shipped["onnx_int8"]
    assert onnx.facts["largest_logit_difference"] < 1e-4
    assert onnx.facts["changed_predictions"] == 0
    assert int8.facts["largest_logit_difference"] > 1e-4
    assert onnx.gain == record.gain
    assert int8.against_float32.value == pytest.approx(
        record.score("test", "export/onnx_int8") - record.score("test"), abs=1e-9
    )
    assert int8.against_float32.low <= int8.against_float32.value <= int8.against_float32.high
    for name, item in record.shipped.items():
        assert set(item.facts) >= SPEEDS | {f"{speed}_all_threads" for speed in SPEEDS}
        assert 0 < item.facts["p50_ms"] <= item.facts["p99_ms"]
        assert ("size_mb" in item.facts) == name.startswith("onnx")
    assert int8.facts["size_mb"] < onnx.facts["size_mb"]
    assert onnx.facts["peak_memory_mb"] < 300  # of a process without torch


def test_mlflow_has_it_and_gives_it_back(exported):
    from kdexp.results.record import RunRecord

    run = Study(f"sqlite:///{exported.folder}/mlflow.db", "distillation").runs()[0]
    assert run.metrics["export/onnx/test/accuracy"] == exported.record.score("test")
    assert {"hardware.cpu_name", "hardware.cpu_instructions"} <= run.params.keys()
    assert run.params["export"] == "onnx+onnx_int8"
    stored = RunRecord.from_stored(run)
    assert stored.shipped == exported.record.shipped
    assert stored.scores["export/onnx_int8"].test == exported.record.scores["export/onnx_int8"].test


def test_the_end_of_the_run_shows_the_files(exported, capsys):
    from kdexp.results.terminal import print_result

    print_result(exported.record, "mlflow ui", "cache")
    shown = capsys.readouterr().out
    assert "onnx_int8 file" in shown
    assert "as shipped" in shown
    assert "texts/s, all threads" in shown


def test_the_folder_is_enough_for_onnxruntime_and_tokenizers(exported):
    import onnxruntime
    from tokenizers import Tokenizer

    folder = shipped_folder(exported, "onnx")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    settings = json.loads((folder / "student.json").read_text())
    assert settings["kind"] == "single_label"
    assert settings["max_length"] == 128
    assert settings["sureness"]["rows"][0] == 200
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    run = Study(f"sqlite:///{exported.folder}/mlflow.db", "distillation")
    table = run.table_artifact(run.runs()[0].run_id, "predictions.parquet").head(20)
    batch = tokenizer.encode_batch(table["text"].tolist())
    columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    inputs = {
        item.name: np.array([getattr(encoding, columns[item.name]) for encoding in batch], dtype=np.int64)
        for item in session.get_inputs()
    }
    logits = session.run(None, inputs)[0]
    assert [settings["label_names"][index] for index in logits.argmax(-1)] == table["student"].tolist()


def test_an_equal_run_writes_nothing_again(exported, monkeypatch):
    monkeypatch.chdir(exported.folder)

    def refuse(*_):
        raise AssertionError("written again")

    for name in ("write_float32", "write_int8"):
        monkeypatch.setattr(f"kdexp.export.files.{name}", refuse)
    monkeypatch.setattr("kdexp.export.speed._measure", refuse)
    assert distil(exported.config).shipped == exported.record.shipped


def source_of(exported) -> Source:
    """The student of the run, as it is handed to an export."""
    from kdexp.cache import Cache
    from kdexp.hardware import Hardware
    from kdexp.model.answer_files import read_answers
    from kdexp.model.load import load_finished
    from kdexp.model.tokens import tokenize
    from kdexp.task.load import load_task

    cache = Cache(exported.folder / "cache")
    task = load_task(exported.config.task, cache)
    files = next((exported.folder / "cache" / "students").glob("*/files"))
    encoder = load_finished(files / "model", task.kind, 128)
    splits = {name: getattr(task, name) for name in ("train", "validation", "test")}
    tokens = {name: tokenize(encoder.tokenizer, split, 128, task.kind, cache) for name, split in splits.items()}
    hardware = Hardware(torch.device("cpu"), False, 1, 0)
    return Source(files / "model", task, 128, tokens, read_answers(files), hardware)


def test_a_graph_that_took_two_inputs_for_one_is_no_export(exported, monkeypatch, tmp_path):
    """As the exporter makes it of one tensor that is given twice, without a word."""
    from kdexp.cache import Cache

    def write_wrong(model, example, target):
        ids = example["input_ids"]
        dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        names = ["input_ids", "attention_mask"]
        torch.onnx.export(
            _Logits(model, names).eval(), (ids, ids), dynamo=True, input_names=names, output_names=["logits"],
            dynamic_shapes=[(dynamic, dynamic)],
        ).save(target)  # fmt: skip

    source = source_of(exported)
    with monkeypatch.context() as patch:
        patch.setattr("kdexp.export.files.write_float32", write_wrong)
        patch.setattr("kdexp.export.files.logits_of_session", lenient)
        with pytest.raises(UserError, match="differ from torch's by up to"):
            export_student({"onnx": compose("export=onnx").export["onnx"]}, source, Cache(tmp_path))
    assert not list(tmp_path.glob("exports/*/files"))


def lenient(session, inputs):
    names = [item.name for item in session.get_inputs()]
    return session.run(None, {name: inputs[name] for name in names})[0]


def test_static_quantization_is_calibrated_on_train(exported, tmp_path):
    from kdexp.cache import Cache

    source = source_of(exported)
    settings = OnnxInt8(quantization="static", calibration_rows=16)
    cache = Cache(exported.folder / "cache")
    (file,) = export_student({"onnx_int8": settings}, source, cache).values()
    assert 1e-4 < file.parity.largest_logit_difference < 5
    assert json.loads((file.folder / "student.json").read_text())["rows_at_once"] == 32
    assert shipped_folder(exported, "onnx_int8")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("export=onx", "no such option; expected one of none, onnx, onnx_int8 \\(did you mean onnx"),
        ("export=onnx_int8 export.onnx_int8.calibration_rows=64", "but dynamic quantization is not calibrated"),
        ("export=onnx_int8 export.onnx_int8.calibration_rows=2", "expected a whole number of at least 8"),
        ("export=onnx_int8 export.onnx_int8.quantization=best", "expected one of dynamic, static"),
        ("export=onnx_int8 export.onnx_int8.bits=4", "export.onnx_int8.bits"),
        ("+export.onnx_int8={}", r"export.onnx_int8: is not declared; add it with 'export=\[onnx_int8\]'"),
    ],
)
def test_what_no_export_can_be_is_refused(settings, told):
    with pytest.raises(UserError, match=told):
        compose(*settings.split())


def test_a_missing_package_is_told_before_anything_is_trained(monkeypatch, tmp_path, own_folder):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "kdexp.export.packages.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    with pytest.raises(UserError, match=r"needs onnxruntime; pip install 'kdexp\[export\]'"):
        distil(compose(*SMALL, "export=onnx", f"cache_dir={tmp_path}/cache"))
    assert not (tmp_path / "mlflow.db").exists()


def test_export_none_is_the_run_that_it_was():
    from kdexp.identity import config_hash

    assert config_hash(compose("export=none")) == config_hash(compose())
    assert config_hash(compose("export=onnx")) != config_hash(compose())


@pytest.mark.parametrize(("model", "library"), [("student", "transformers"), ("student_onnx_int8", "onnx")])
def test_every_logged_student_has_a_card(exported, monkeypatch, model, library):
    from huggingface_hub import ModelCard

    from kdexp.tracking.fetch import fetch_model

    monkeypatch.chdir(exported.folder)
    folder = fetch_model(f"runs:/{exported.record.run_id}/{model}", f"sqlite:///{exported.folder}/mlflow.db")
    card = ModelCard.load(folder / "README.md")
    role = model.replace("student_", "export/")
    found = {item.metric_type: item.metric_value for item in card.data.eval_results}
    assert found["accuracy"] == round(exported.record.score("test", role), 4)
    assert card.data.library_name == library
    assert exported.record.run_id in card.text
