"""What only a CUDA device can show. One command where there is one: python -m pytest -m gpu"""

import pytest
import torch

from kdexp.cache import Cache
from kdexp.hardware import Device, HardwareConfig, Precision, prepare_hardware
from kdexp.model.config import ModelConfig
from kdexp.model.encoder import predict
from kdexp.model.load import load_encoder
from kdexp.model.tokens import tokenize
from kdexp.task.config import EmbeddedTaskConfig
from kdexp.task.load import load_task

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# Relative to the spread of the logits: bfloat16 has 8 bits of mantissa, and errors add up over layers.
BFLOAT16_TOLERANCE = 0.05


@pytest.fixture
def small_model(tmp_path):
    sizes = {"train_size": 300, "validation_size": 100, "test_size": 100, "transfer_size": 0}
    task = load_task(EmbeddedTaskConfig(name="reviews", **sizes, label_noise=0.0), Cache(tmp_path))
    config = ModelConfig(
        name="bert", family="bert", num_layers=2, hidden_size=64, num_heads=4, vocab_size=800, max_length=64
    )
    cache = Cache(tmp_path)
    encoder = load_encoder("student", config, task, cache, seed=0)
    return encoder, tokenize(encoder.tokenizer, task.test, encoder.max_length, task.kind, cache)


def logits_on(device: Device, precision: Precision, small_model) -> torch.Tensor:
    encoder, tokens = small_model
    hardware = prepare_hardware(HardwareConfig(device=device, precision=precision))
    return predict(encoder.model, encoder.tokenizer, tokens, hardware, batch_size=32, description="test").values


def test_bfloat16_on_the_gpu_is_close_to_float32_on_the_cpu(small_model):
    on_cpu = logits_on(Device.cpu, Precision.float32, small_model)
    on_gpu = logits_on(Device.gpu, Precision.bfloat16, small_model)
    assert (on_gpu - on_cpu).abs().max() < BFLOAT16_TOLERANCE * on_cpu.std().clamp(min=1)


def test_the_model_goes_to_the_device(small_model):
    logits_on(Device.gpu, Precision.float32, small_model)
    assert next(small_model[0].model.parameters()).is_cuda


def test_a_whole_run_on_the_gpu(kdexp):
    result = kdexp("hardware=gpu", "task.train_size=300", "teacher.chance_check=false", "train.epochs=1")
    assert result.returncode == 0, result.stderr
    assert "bfloat16" in result.stderr
    assert "weights unchanged: yes" in result.stdout
