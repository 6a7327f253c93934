"""Facts about saved folders that vLLM opens: it generates the greedy tokens of transformers and of the local sampler.

vLLM has an environment of its own: R1KIT_VLLM_PYTHON=/path/to/its/python python -m pytest tests/test_hf_vllm.py
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from r1kit.model.hf import load_model, save_model
from r1kit.model.tokenizer import load_tokenizer
from r1kit.sampling.local import LocalSampler
from r1kit.types import Prompt, SamplingParams
from tiny import LLAMA3, VOCAB, hf_from_config, random_tokens, tiny_tokenizer

PYTHON = os.environ.get("R1KIT_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="R1KIT_VLLM_PYTHON names no interpreter that has vLLM")

ROPE = {"rope_type": "default", "rope_theta": 500.0}
MODELS: dict[str, dict[str, Any]] = {
    "qwen2": {"rope_parameters": ROPE, "tie_word_embeddings": True},
    "qwen3": {"rope_parameters": ROPE, "head_dim": 64},
    "llama": {"rope_parameters": ROPE | LLAMA3 | {"rope_type": "llama3"}},
}
PROMPTS = [random_tokens(length, seed) for seed, length in enumerate((3, 12, 33, 1))]
# vLLM's CPU attention has heads of 32 numbers and more.
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
GENERATE = """
import json, sys
from vllm import LLM, SamplingParams
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=8)
params = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)
outputs = llm.generate([{"prompt_token_ids": tokens} for tokens in prompts], params)
ends = llm.get_tokenizer().eos_token_id
template = llm.get_tokenizer().apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
print("RESULT" + json.dumps([[list(o.outputs[0].token_ids) for o in outputs], ends, template]))
"""


@pytest.mark.parametrize("kind", MODELS)
def test_vllm_opens_a_saved_folder_and_generates_the_same(kind: str, tmp_path: Path):
    theirs = hf_from_config(AutoConfig.for_model(kind, **copy.deepcopy(SIZES | MODELS[kind])))
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs", torch.float32)
    folder = tmp_path / "ours"
    tiny_tokenizer().save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs/chat_template.jinja").write_text("{% for m in messages %}<{{ m.content }}>{% endfor %}")
    save_model(model, load_tokenizer(tmp_path / "theirs"), folder, max_shard_size="200KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    command = [PYTHON, "-c", GENERATE, str(folder), json.dumps(PROMPTS)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    tokens, end, rendered = json.loads(line.removeprefix("RESULT"))
    assert (end, rendered) == (0, "<hi>")
    sampler = LocalSampler(tiny_tokenizer())
    sampler.load_weights(model, version=0)
    params = SamplingParams(temperature=0.0, max_new_tokens=12)
    ours = sampler.generate([Prompt(tuple(prompt), seed=0) for prompt in PROMPTS], params, 1)
    assert tokens == [list(group[0].tokens) for group in ours]
    opened = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, continued in zip(PROMPTS, tokens, strict=True):
        output = opened.generate(  # type: ignore[operator]
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=12,
            min_new_tokens=12, do_sample=False, pad_token_id=1,
        )  # fmt: skip
        assert output[0, len(prompt) :].tolist() == continued
