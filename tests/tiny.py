"""Tiny models and tokenizers for tests: made in a moment, and large enough for every fact about the code.

Weights are far from their initial values, so that biases, norms and each matrix change the result.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DeepseekV3Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from r1kit.algo.losses import nll_loss
from r1kit.algo.packing import Batch, Packable
from r1kit.config import OptimConfig
from r1kit.model.hf import load_model
from r1kit.model.tokenizer import train_tokenizer
from r1kit.model.transformer import Decoder, PackedAttention, Transformer, TransformerConfig
from r1kit.training.learner import LocalLearner

LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
VARIANTS: dict[str, dict[str, Any]] = {
    "qwen2": {"tie_word_embeddings": True},
    "qwen2-untied": {},
    "llama": {"tie_word_embeddings": True},
    "llama-untied": {},
    "qwen3": {"head_dim": 16},
    "qwen3-tied": {"head_dim": 16, "tie_word_embeddings": True},
    "mistral": {"head_dim": 16, "sliding_window": None},
    "llama-biases": {"attention_bias": True, "mlp_bias": True},
    "llama-llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3}},
    "llama-llama3-tied": {
        "rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **LLAMA3},
        "tie_word_embeddings": True,
    },
    "llama-linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}},
    "llama-dynamic": {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0}},
    "qwen2-yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 500.0, **YARN}, "tie_word_embeddings": True},
}
"""What the fast decoder reads: `model_type`, a dash and what is special about it."""
ARCHITECTURES = tuple(VARIANTS)
DEEPSEEK_YARN = {
    "rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.0,
    "mscale_all_dim": 0.7, "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip
DEEPSEEKS: dict[str, dict[str, Any]] = {
    "as V3": {"rope_parameters": DEEPSEEK_YARN},
    "no yarn": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "as Moonlight": {"q_lora_rank": None, "n_group": 1, "topk_group": 1, "n_shared_experts": 2},
    "otherwise": {"norm_topk_prob": False, "rope_interleave": False, "tie_word_embeddings": True},
}
VOCAB = 400
HIDDEN = 32
CONTEXT = 128
SHAPES = ((5, 9), (1, 1), (12, 20), (4, 0), (7, 4), (2, 15), (5, 9), (0, 6))
"""(prompt tokens, completion tokens) of one step; one has no completion, one no prompt."""
OPTIM = OptimConfig(weight_decay=0.1)
DOCUMENTS = (
    "User: Make 23 from 8, 3, 1.\nAssistant: <think>8*3=24\n24-1=23 yes</think><answer>8*3-1</answer>",
    "User: 用8、3、1算出23。\nAssistant: <think>8*3=24\n24-1=23对了</think><answer>8*3-1</answer>",
    "Rice is made by hand. The doctor found three apples in the garden.",
    "昨天农民在市场上买了一把红椅子。米饭比人们想的更古老。",
) * 5


@cache
def tiny_tokenizer() -> PreTrainedTokenizerBase:
    return train_tokenizer(DOCUMENTS, VOCAB)


@torch.no_grad()
def perturb(module: nn.Module, seed: int = 0, scale: float = 0.2) -> None:
    """Add noise to every parameter, norms and biases too."""
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight += scale * torch.empty(weight.shape).normal_(generator=generator)


def tiny_config(*, tie: bool = True, context: int = CONTEXT) -> TransformerConfig:
    """Llama's architecture."""
    return TransformerConfig(
        model_type="llama", vocab_size=VOCAB, hidden=HIDDEN, layers=2, heads=4, kv_heads=2, head_dim=8, mlp=48,
        context=context, tie_embeddings=tie,
    )  # fmt: skip


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, *, tie: bool = False) -> Transformer:
    model = Transformer(tiny_config(tie=tie))
    model.init_weights(torch.Generator().manual_seed(seed))
    perturb(model, seed)
    return model.to(dtype)


def hf_model(name: str, seed: int = 0) -> PreTrainedModel:
    """transformers' own model of one of ARCHITECTURES, every number of its config unlike the default."""
    own = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}, "tie_word_embeddings": False}
    config = AutoConfig.for_model(
        name.split("-")[0], vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT, rms_norm_eps=1e-3,
        bos_token_id=None, eos_token_id=None, **copy.deepcopy(own | VARIANTS[name]),
    )  # fmt: skip
    return hf_from_config(config, seed)


def hf_from_config(config: Any, seed: int = 0) -> PreTrainedModel:
    """transformers' model of a config, in fp32, far from its initial weights."""
    with torch.random.fork_rng():  # transformers draws initial weights from the global generator
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    perturb(model, seed)
    return model


def hf_deepseek(name: str = "as V3") -> PreTrainedModel:
    """transformers' own, every number unlike another: one dense layer, two with experts."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "n_shared_experts": 1,
        "n_routed_experts": 8, "routed_scaling_factor": 1.7, "kv_lora_rank": 16, "q_lora_rank": 24,
        "qk_rope_head_dim": 8, "v_head_dim": 10, "qk_nope_head_dim": 12, "n_group": 4, "topk_group": 2,
        "num_experts_per_tok": 3, "first_k_dense_replace": 1, "max_position_embeddings": 128, "rms_norm_eps": 1e-3,
        "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    }  # fmt: skip
    model = hf_from_config(DeepseekV3Config(**copy.deepcopy(fields | DEEPSEEKS[name])))
    generator = torch.Generator().manual_seed(7)
    for key, buffer in model.named_buffers():
        if key.endswith("e_score_correction_bias"):
            buffer += 0.3 * torch.empty(buffer.shape).normal_(generator=generator)
    return model


def both_models(name: str, folder: Path) -> tuple[PreTrainedModel, Transformer]:
    """transformers' model, and ours with the weights that transformers saved in `folder`."""
    model = hf_model(name)
    model.save_pretrained(folder)
    ours = load_model(folder, torch.float32)
    assert isinstance(ours, Transformer)
    return model, ours


def random_tokens(length: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def packed_hidden(model: Decoder, sequences: list[list[int]]) -> Tensor:
    """Hidden states [T, D] of sequences packed in this order."""
    attention = PackedAttention([len(sequence) for sequence in sequences], "cpu")
    return model(torch.tensor([t for sequence in sequences for t in sequence]), attention.positions_T, attention)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names, params = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, params), strict=True))


def make_sequences(seed: int = 0) -> list[Packable]:
    generator = torch.Generator().manual_seed(seed)
    return [
        Packable(
            tuple(random_tokens(prompt + completion, seed * 100 + row)), prompt,
            advantage=torch.randn(1, generator=generator).item(),
        )
        for row, (prompt, completion) in enumerate(SHAPES)
    ]  # fmt: skip


def make_learner(
    dtype: torch.dtype = torch.float32, *, seed: int = 0, optim: OptimConfig = OPTIM, with_reference: bool = False,
    temperature: float = 1.0,
) -> LocalLearner:  # fmt: skip
    model = tiny_model(seed, dtype, tie=True)
    return LocalLearner(model, tiny_tokenizer(), optim, temperature=temperature, with_reference=with_reference)


def nll(logprobs_N: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    return nll_loss(logprobs_N, batch.labels_N.numel())
