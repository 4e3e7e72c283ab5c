"""Import orders can only be tried in fresh processes: which library comes first is settled once per process."""

import subprocess
import sys

import pytest

from dataflow.errors import MissingExtraError
from dataflow.tensorflow_runtime import load_tensorflow

USE_TORCH = """
import torch
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage4"])
config = DetrConfig(
    use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
    encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
    decoder_ffn_dim=16, num_queries=4,
)
model = DetrForObjectDetection(config)
optimizer = torch.optim.AdamW(model.parameters())
model(torch.rand(1, 3, 32, 32)).logits.sum().backward()
optimizer.step()
"""
USE_TENSORFLOW = """
from dataflow.tensorflow_runtime import load_tensorflow
tensorflow = load_tensorflow()
assert tensorflow.config.get_visible_devices("GPU") == []
assert [int(x) for x in tensorflow.data.Dataset.range(3)] == [0, 1, 2]
assert load_tensorflow() is tensorflow
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("parts", [(USE_TENSORFLOW, USE_TORCH), (USE_TORCH, USE_TENSORFLOW)], ids=["first", "last"])
def test_tensorflow_and_torch_work_in_one_process_in_either_order(parts: tuple[str, str]) -> None:
    finished = run("\n".join([*parts, "print('both work')"]))
    assert finished.stdout.strip() == "both work", finished.stderr[-2000:]
    assert finished.returncode == 0


def test_missing_tensorflow_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(MissingExtraError, match=r"shardbox\[train\]"):
        load_tensorflow()


def test_a_broken_tensorflow_is_not_taken_for_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("broken")
    (folder / "tensorflow.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_library_that_nobody_has"):
        load_tensorflow()
