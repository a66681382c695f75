"""Base models and tokenizers: where they are, how they are loaded and quantized."""
