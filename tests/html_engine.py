"""The engine of exported pages in node, beside the models in PyTorch that it is to equal."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import hf_vanilla
from hf_vanilla import beam_search
from hf_vanilla.conversion.html_page import describe, pack_weights

ENGINE = Path(hf_vanilla.__file__).parent / "templates" / "html" / "engine.js"
RUNNER = Path(__file__).with_name("run_engine.js")
NODE = shutil.which("node")
in_node = pytest.mark.skipif(NODE is None, reason="no node on this machine")


def run_node(tasks, data=None, weights=b""):
    """What each task of `run_engine.js` gives, with the model or tokenizer that `data` describes."""
    given = {"engine": str(ENGINE), "data": data or {}, "weights": base64.b64encode(weights).decode(), "tasks": tasks}
    done = subprocess.run([NODE, str(RUNNER)], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def run_model(model, tokenizer, tasks, precision="float16"):
    """What each task gives with a model, as an exported page holds it."""
    data = describe(model, tokenizer)
    data["tensors"], weights = pack_weights(model, precision)
    return run_node(tasks, data, weights)


def rounded(model, precision="float16"):
    """The model with the weights that a page holds of it, in float32."""
    with torch.no_grad():
        for parameter in model.parameters():
            if precision == "int8" and parameter.ndim == 2:
                scales = (parameter.abs().amax(1, keepdim=True) / 127).clamp(min=torch.finfo(torch.float32).tiny)
                parameter.copy_((parameter / scales).round() * scales)
            else:
                parameter.copy_(parameter.half())
    return model.eval()


def search_in_torch(model, ids, beams, prompt=None, **options):
    """Tokens, without the prompt and padding, and scores of all hypotheses by the paper's beam search."""
    ids = torch.tensor([ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    start = ids.shape[1]
    if model.config.is_encoder_decoder:
        prompt = prompt or [model.config.decoder_start_token_id]
        inputs["decoder_input_ids"], start = torch.tensor([prompt]), len(prompt)
    output = model.generate(
        **inputs,
        num_beams=beams,
        num_return_sequences=beams,
        custom_generate=beam_search,
        return_dict_in_generate=True,
        do_sample=False,
        **options,
    )
    lengths = (output.beam_indices >= 0).sum(1) if output.beam_indices is not None else None
    rows = [row[start : start + int(length)].tolist() for row, length in zip(output.sequences, lengths, strict=True)]
    return rows, output.sequences_scores.tolist()
