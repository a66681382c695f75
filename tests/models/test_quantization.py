"""What bitsandbytes says, and when it is imported."""

import os
import subprocess
import sys

import pytest
from places import ROOT

NOTICE = "pip install kernels"


def run_python(code: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_no_kernel_is_advertised(wide_model, quantization, tmp_path):
    """Whoever imports bitsandbytes: this app or PEFT. On CPUs without AVX512-BF16 it says nothing in any case."""
    ended = run_python(
        "from fedllm_app.models.quantization import prepare_bitsandbytes\n"
        f"prepare_bitsandbytes({quantization!r})\n"
        "from fedllm_app.adapters.methods import AdapterValues\n"
        "from fedllm_app.models.base import ModelValues\n"
        "from fedllm_app.training.resident import ResidentKey, resident\n"
        f"values = ModelValues({str(wide_model)!r}, 'bfloat16', quantization={quantization!r})\n"
        "model = resident(ResidentKey('sft', values, AdapterValues(4, 8, 0.0, 'all-linear')))\n"
        "print(model.manifest.size)\n"
    )
    assert ended.stdout.strip().isdigit(), ended.stderr[-2000:]
    assert NOTICE not in ended.stderr


@pytest.mark.slow
def test_no_kernel_is_advertised_where_peft_comes_first(tiny_model):
    ended = run_python("import fedllm_app.adapters.methods, peft, bitsandbytes\nprint('done')\n")
    assert ended.stdout.strip() == "done", ended.stderr[-2000:]
    assert NOTICE not in ended.stderr


@pytest.mark.slow
def test_a_process_that_left_it_out_may_need_it_later(tiny_model):
    """PEFT and transformers have noted that it is not there."""
    ended = run_python(
        "from fedllm_app.models.quantization import prepare_bitsandbytes\n"
        "from fedllm_app.adapters.methods import AdapterValues\n"
        "from fedllm_app.models.base import ModelValues\n"
        "from fedllm_app.training.resident import ResidentKey, resident\n"
        "for quantization in ('none', 'int8'):\n"
        "    prepare_bitsandbytes(quantization, 'adamw')\n"
        f"    values = ModelValues({str(tiny_model)!r}, 'float32', quantization=quantization)\n"
        "    model = resident(ResidentKey('sft', values, AdapterValues(4, 8, 0.0, ('q_proj',)))).model\n"
        "    print(type(model.base_model.model.model.layers[0].self_attn.q_proj).__name__)\n"
        "prepare_bitsandbytes('none', 'adamw-8bit')\n"
    )
    assert ended.stdout.split() == ["Linear", "Linear8bitLt"], ended.stderr[-2000:]


@pytest.mark.slow
def test_the_optimizer_needs_it_too():
    ended = run_python(
        "import sys\n"
        "from fedllm_app.models.quantization import prepare_bitsandbytes\n"
        "for optimizer in ('adamw', 'adamw-8bit'):\n"
        "    prepare_bitsandbytes('none', optimizer)\n"
        "    print(sys.modules['bitsandbytes'] is not None)\n"
    )
    assert ended.stdout.split() == ["False", "True"], ended.stderr[-2000:]


def test_other_warnings_of_bitsandbytes_pass(caplog):
    import logging

    import fedllm_app.models.quantization  # noqa: F401

    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s", "none")
    logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
