"""Facts about saved folders that vLLM opens: it generates the greedy tokens of transformers and of the local sampler.

vLLM has an environment of its own: R1KIT_VLLM_PYTHON=/path/to/its/python python -m pytest tests/test_hf_vllm.py
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1kit.model.hf import load_model, save_model
from r1kit.model.tokenizer import load_tokenizer
from r1kit.sampling.local import LocalSampler
from r1kit.types import Prompt, SamplingParams
from tiny import LLAMA3, VOCAB, YARN, hf_from_config, random_tokens, tiny_tokenizer

PYTHON = os.environ.get("R1KIT_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="R1KIT_VLLM_PYTHON names no interpreter that has vLLM")

ROPE = {"rope_type": "default", "rope_theta": 500.0}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"rope_parameters": ROPE, "tie_word_embeddings": True},
    "qwen3": {"rope_parameters": ROPE, "head_dim": 64},
    "llama": {"rope_parameters": ROPE | LLAMA3 | {"rope_type": "llama3"}},
    "llama-tied": {"rope_parameters": ROPE | LLAMA3 | {"rope_type": "llama3"}, "tie_word_embeddings": True},
    "gemma": {"rope_parameters": ROPE, "head_dim": 32},  # through transformers' forward pass here
    # vLLM has MLA for these widths of heads only, and reads the bias only where the config says topk_method.
    "deepseek_v3": {
        "rope_parameters": ROPE | YARN | {"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.7},
        "num_key_value_heads": 4, "kv_lora_rank": 512, "q_lora_rank": 24, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "qk_nope_head_dim": 128, "n_routed_experts": 8, "n_shared_experts": 1, "moe_intermediate_size": 64,
        "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "routed_scaling_factor": 1.7,
        "first_k_dense_replace": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid", "pad_token_id": None,
    },
}  # fmt: skip
"""`model_type`, a dash and what is special about it."""
PROMPTS = [random_tokens(length, seed) for seed, length in enumerate((3, 12, 33, 1))]
# vLLM's CPU attention has heads of 32 numbers and more.
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GENERATE = """
import json, multiprocessing, os, sys
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM, SamplingParams

def answer(folder):
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=8)
    params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
    outputs = llm.generate([{"prompt_token_ids": tokens} for tokens in json.loads(sys.argv[1])], params)
    rendered = llm.get_tokenizer().apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    return [list(o.outputs[0].token_ids) for o in outputs], llm.get_tokenizer().eos_token_id, rendered

# A process each, forked from one that has imported vLLM: the import takes longer than the rest.
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print("RESULT" + json.dumps(pool.map(answer, sys.argv[2:], chunksize=1)))
"""


def vllm_answers(folders: Sequence[Path]) -> list[Any]:
    """For each folder: the greedy tokens after PROMPTS, the end token, a rendered conversation, all by vLLM."""
    command = [PYTHON, "-c", GENERATE, json.dumps(PROMPTS), *map(str, folders)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    return json.loads(line.removeprefix("RESULT"))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """Kind -> the folder that r1kit saved, and vLLM's answers."""
    folders = []
    for kind, settings in MODELS.items():
        folder = tmp_path_factory.mktemp(kind)
        theirs = hf_from_config(AutoConfig.for_model(kind.partition("-")[0], **copy.deepcopy(SIZES | settings)))
        theirs.save_pretrained(folder / "theirs")
        tiny_tokenizer().save_pretrained(folder / "theirs")
        (folder / "theirs/chat_template.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
        model = load_model(folder / "theirs", torch.float32)
        folders.append(folder / "ours")
        save_model(model, load_tokenizer(folder / "theirs"), folders[-1], max_shard_size="200KB")
    return {kind: (folder, got) for kind, folder, got in zip(MODELS, folders, vllm_answers(folders), strict=True)}


@pytest.mark.parametrize("kind", MODELS)
def test_vllm_opens_a_saved_folder_and_generates_the_same(kind: str, answers: dict[str, tuple[Path, Any]]):
    folder, (tokens, end, rendered) = answers[kind]
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert (end, rendered) == (0, "<hi>")
    sampler = LocalSampler(tiny_tokenizer())
    sampler.load_weights(load_model(folder.parent / "theirs", torch.float32), version=0)
    params = SamplingParams(temperature=0.0, max_new_tokens=12)
    ours = sampler.generate([Prompt(tuple(prompt), seed=0) for prompt in PROMPTS], params, 1)
    assert tokens == [list(group[0].tokens) for group in ours]
    opened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    opened.generation_config.eos_token_id = None  # no end here, as above
    for prompt, continued in zip(PROMPTS, tokens, strict=True):
        output = opened.generate(  # type: ignore[operator]
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=12,
            do_sample=False, pad_token_id=1,
        )  # fmt: skip
        assert output[0, len(prompt) :].tolist() == continued
