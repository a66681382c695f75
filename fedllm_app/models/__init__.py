"""Base models: found, checked, loaded, quantized."""

import logging


def _is_no_kernel_notice(record: logging.LogRecord) -> bool:
    """Drop one warning of bitsandbytes: that on some CPUs a kernel could be installed for its evaluation mode.

    Quantized models are kept from that mode's arithmetic here (`quantization.use_one_arithmetic`). The warning comes
    whenever
    bitsandbytes is imported, by PEFT too, so the filter stands where every part that loads either passes.
    """
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward")


logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_no_kernel_notice)
