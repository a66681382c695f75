"""A whole run in one process, and its bytes."""

from fedllm_app import in_process
from fedllm_app.in_process import InProcessGrid


def run_in_process(flat: dict, directory, grid: type[InProcessGrid] | None = None) -> bytes:
    """One whole run; the bytes of the final adapter."""
    grid = grid or InProcessGrid  # looked up here, because tests replace it
    in_process.run_in_process(flat | {"run.directory": str(directory)}, grid=grid)
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()


def resume_in_process(flat: dict, directory, grid=InProcessGrid) -> bytes:
    """Go on with a run of `run_in_process`; the bytes of the final adapter."""
    in_process.run_in_process(flat | {"run.directory": "", "run.resume": str(directory)}, grid=grid)
    return (directory / "adapter" / "adapter_model.safetensors").read_bytes()
