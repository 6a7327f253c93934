"""GRPO on the real GSM8K, then vLLM itself: a saved folder is answered from as in r1kit, token by token, ends too.

vLLM has an environment of its own: R1KIT_VLLM_PYTHON=/path/to/its/python python -m pytest tests/test_vllm_gsm8k.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from r1kit.model.tokenizer import load_tokenizer
from test_gsm8k import GREEDY, RUNS, needs_gsm8k, saved_and_asked, train

PYTHON = os.environ.get("R1KIT_VLLM_PYTHON", "")
pytestmark = [
    needs_gsm8k,
    pytest.mark.skipif(not PYTHON, reason="R1KIT_VLLM_PYTHON names no interpreter that has vLLM"),
]

ANSWER = """
import json, multiprocessing, os, sys
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM

def answer(task):
    folder, texts, cap = task
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=1024, max_num_seqs=8)
    params = llm.get_default_sampling_params()  # what the folder's generation_config.json says
    params.temperature, params.max_tokens = 0.0, cap
    tokenizer = llm.get_tokenizer()
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    outputs = llm.generate([{"prompt_token_ids": tokens} for tokens in prompts], params)
    return prompts, [list(output.outputs[0].token_ids) for output in outputs], tokenizer.chat_template

# A process each, forked from one that has imported vLLM: the import takes longer than the rest.
with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
    print("RESULT" + json.dumps(pool.map(answer, json.loads(sys.argv[1]), chunksize=1)))
"""


def test_vllm_answers_as_the_run_that_saved_the_folder(tmp_path: Path):
    """Nothing in the folders is edited, and vLLM is told of no end token besides theirs."""
    asked = [saved_and_asked(name, train(name, tmp_path / name)) for name in RUNS]
    tasks = json.dumps([(str(saved), texts, GREEDY) for saved, texts, _ in asked])
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([PYTHON, "-c", ANSWER, tasks], capture_output=True, text=True, env=environment, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))
    for (saved, texts, expected), answers in zip(asked, json.loads(line.removeprefix("RESULT")), strict=True):
        prompts, tokens, template = answers
        tokenizer = load_tokenizer(saved)
        assert prompts == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        assert tokens == expected and any(len(each) < GREEDY for each in tokens)
        assert template == tokenizer.chat_template
