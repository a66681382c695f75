"""Rounds of training: an adapter that stays at rest is a failure, and nothing is written where the process runs."""

import os
import stat
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
import transformers
from bitsandbytes.optim import GlobalOptimManager
from jobs import steps, train_on
from places import ROOT

from fedllm_app.adapters.methods import AdapterValues
from fedllm_app.models.base import ModelValues, load_tokenizer, locate_model
from fedllm_app.training import dpo
from fedllm_app.training.resident import Resident, ResidentKey
from fedllm_app.training.sft import sft_dataset, sft_trainer
from fedllm_app.training.trainer import AdapterAtRest, optimizer_name, training_arguments, use_one_gpu


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_learning_rate_of_zero_is_a_failure(model, start, rows, optimizer):
    trainer = sft_trainer(model, steps(2, 2, 1, optimizer, 0.0, 1.0))
    with pytest.raises(
        AdapterAtRest, match=r"did not move in 2 optimizer steps at learning rate 0:.*train\.learning-rate"
    ):
        train_on(model, trainer, sft_dataset(rows[:4]), start, 0.0, 0)


def test_an_adapter_without_a_gradient_is_a_failure(model, rows):
    """A and B both zero: neither has one."""
    trainer = sft_trainer(model, steps(2, 2, 1, "adamw", 0.0, 1.0))
    with pytest.raises(AdapterAtRest, match="every gradient or the rate was zero"):
        train_on(model, trainer, sft_dataset(rows[:4]), np.zeros(model.manifest.size, np.float32), 1e-2, 0)


def test_one_that_moves_by_little_is_none(model, start, rows):
    trainer = sft_trainer(model, steps(1, 2, 1, "adamw", 0.0, 1.0))
    result = train_on(model, trainer, sft_dataset(rows[:2]), start, 1e-6, 0)
    assert 0 < np.abs(result.adapter - start).max() < 2e-6


def test_nothing_is_left_in_the_working_directory(model, start, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_on(model, sft_trainer(model, steps(1, 2, 1, "adamw", 0.0, 1.0)), sft_dataset(rows[:2]), start, 1e-3, 0)
    assert list(tmp_path.iterdir()) == []


def test_no_argument_is_a_relative_path(run_config, app_home):
    train = steps(1, 2, 1, "adamw", 0.0, 1.0)
    assert training_arguments(train)["output_dir"] == str(app_home / "trainer")


@pytest.mark.slow
def test_a_client_whose_working_directory_cannot_be_written(tmp_path, tiny_model):
    """As / is for a service. `root` may write anywhere, so the directory is one that no file can be made in."""
    place = tmp_path / "fixed"
    place.mkdir()
    place.chmod(stat.S_IRUSR | stat.S_IXUSR)
    cwd = "/proc" if os.geteuid() == 0 else str(place)
    script = textwrap.dedent(
        f"""
        import sys
        sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
        import numpy as np
        from jobs import steps, train_on
        from fedllm_app.adapters.methods import AdapterValues
        from fedllm_app.models.base import ModelValues
        from fedllm_app.training.resident import ResidentKey, resident
        from fedllm_app.training.sft import sft_dataset, sft_trainer
        adapter = AdapterValues(4, 8, 0.0, "all-linear")
        model = resident(ResidentKey("sft", ModelValues({str(tiny_model)!r}, "float32"), adapter))
        rows = [(np.arange(5, 14).astype(np.int32), 4)] * 2
        trainer = sft_trainer(model, steps(1, 2, 1, "adamw", 0.0, 1.0))
        result = train_on(model, trainer, sft_dataset(rows), model.adapter.read(), 1e-2, 0)
        print("trained", len(result.losses))
        """
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert "trained 1" in ended.stdout, ended.stderr[-2000:]


@pytest.mark.parametrize("method", ["lora", "prefix-tuning"])
@pytest.mark.parametrize("task", ["sft", "dpo"])
def test_experts_are_trained_by_the_rows_alone(tiny_model, tmp_path, task, method):
    """A Mixtral, whose configuration names a weight for a loss of its routers. They are frozen; TRL would add that
    loss, to
    a prefix's rows with an attention mask of another length, and to DPO's without having computed it.

    The logged loss of SFT is that of the rows, scored on their own; DPO's first loss is ln 2, its policy being the
    reference.
    """
    config = transformers.MixtralConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        router_aux_loss_coef=0.5,
        output_router_logits=True,
        max_position_embeddings=128,
    )
    torch.manual_seed(0)
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path)
    load_tokenizer(locate_model(str(tiny_model))).save_pretrained(tmp_path)
    targets = ("q_proj", "v_proj")
    values = AdapterValues(4, 8, 0.0, targets, method=method, virtual_tokens=4)
    model = Resident(ResidentKey(task, ModelValues(str(tmp_path), "float32"), values))
    ids = np.arange(5, 17).astype(np.int32)
    start = model.adapter.read()
    training = steps(1, 2, 1, "adamw", 0.0, 1.0)
    if task == "sft":
        result = train_on(
            model, sft_trainer(model, training), sft_dataset([(ids, 4), (ids[::-1].copy(), 4)]), start, 1e-3, 0
        )
        with model.using(start) as plain, torch.no_grad():
            rows = torch.from_numpy(np.stack([ids, ids[::-1]]).astype(np.int64))
            log_probs = plain(input_ids=rows).logits[:, -12:].log_softmax(-1)
        expected = -log_probs[:, 3:-1].gather(2, rows[:, 4:, None]).mean()
        assert result.losses[0] == pytest.approx(float(expected), rel=1e-4)
        return
    from fedllm_app.data.shards import PairShard, Shard
    from fedllm_app.training.references import ReferenceCache

    def shard(*tails) -> Shard:
        pieces = [np.concatenate([ids[:4], tail]).astype(np.int32) for tail in tails]
        return Shard(np.concatenate(pieces), np.cumsum([0, *map(len, pieces)]), np.full(len(pieces), 4, np.int32), 0)

    pairs = PairShard(shard(ids[4:], ids[6:]), shard(ids[8:], ids[5:8]))
    cache = ReferenceCache(["test"], 2, 2)
    dpo.complete_references(model, pairs, np.arange(2), start, cache)
    trainer = dpo.dpo_trainer(model, training, 0.1, "sigmoid")
    result = train_on(model, trainer, dpo.dpo_dataset(pairs, np.arange(2), cache), start, 1e-3, 0)
    assert result.losses[0] == pytest.approx(np.log(2), abs=1e-5)


def test_a_process_that_sees_several_gpus_uses_one():
    """transformers would take the batch once for each: 2 rows on 4 GPUs are 8."""
    arguments = transformers.TrainingArguments(per_device_train_batch_size=2, use_cpu=True)
    assert arguments.n_gpu <= 1  # it has looked
    arguments._n_gpu = 4
    assert arguments.train_batch_size == 8
    assert use_one_gpu(arguments).train_batch_size == 2


@pytest.mark.parametrize(
    ("optimizer", "on_a_gpu", "name"),
    [
        ("adamw", False, "adamw_torch"),
        ("adamw", True, "adamw_torch_fused"),
        ("adamw-8bit", False, "adamw_8bit"),
        ("adamw-8bit", True, "paged_adamw_8bit"),
        ("sgd", True, "sgd"),
    ],
)
def test_transformers_knows_every_optimizer(optimizer, on_a_gpu, name):
    assert optimizer_name(optimizer, on_a_gpu) == name
    transformers.TrainingArguments(optim=name, use_cpu=True)


def test_moments_in_8_bits_are_kept_in_8_bits(model, start, rows):
    """Of tensors of 4,096 numbers and more; this adapter's are smaller, and then it computes what AdamW does."""
    adapters = {}
    for optimizer in ("adamw", "adamw-8bit"):
        trainer = sft_trainer(model, steps(2, 2, 1, optimizer, 0.0, 1.0))
        adapters[optimizer] = train_on(model, trainer, sft_dataset(rows[:4]), start, 1e-3, 0).adapter
        made = type(getattr(trainer.optimizer, "optimizer", trainer.optimizer)).__module__
        assert made.startswith("bitsandbytes" if optimizer == "adamw-8bit" else "torch")
    np.testing.assert_allclose(adapters["adamw-8bit"], adapters["adamw"], atol=1e-6)
    assert GlobalOptimManager.get_instance().module_weight_config_triple == [], "it would keep the model for good"
    assert adapters["adamw"].tobytes() != start.tobytes()
