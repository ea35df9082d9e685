"""A saved folder stands alone: it loads in a process that cannot import `hf_vanilla`, through every Auto class."""

import os

import pytest
import torch
from families import batch_for, small_model
from fresh import run_python
from safetensors.torch import load_file, save_file

from hf_vanilla import (
    RecurrentForConditionalGeneration,
    VanillaDecoderForCausalLM,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
    beam_search,
)
from hf_vanilla.data.tokenization import train_tokenizer

# Loads a folder through every Auto class of its map, saves each model again, and loads that through every Auto class,
# too. Logits of the head that was saved are written for comparison.
SCRIPT = """
import json, sys
from pathlib import Path
sys.modules["hf_vanilla"] = None  # importing it raises ImportError
import transformers
from safetensors.torch import load_file, save_file

folder, auto_class = Path(sys.argv[1]), sys.argv[2]

def check(folder, saved_as):
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert saved_as in auto_map and "AutoModel" in auto_map and len(auto_map) >= 3, auto_map
    for name in auto_map:
        loaded = getattr(transformers, name).from_pretrained(folder, trust_remote_code=True)
        assert type(loaded).__module__.startswith("transformers_modules."), type(loaded)
        assert type(loaded).__name__ == auto_map[name].split(".")[1], type(loaded)
        yield name, loaded

inputs = load_file(folder / "inputs.safetensors")
for name, model in list(check(folder, auto_class)):
    if name == "AutoConfig":
        continue
    model.save_pretrained(folder / name)
    if name == auto_class:
        save_file({"logits": model(**inputs).logits}, folder / "outputs.safetensors")
        again = dict(check(folder / name, name))[name]
        assert (again(**inputs).logits == model(**inputs).logits).all()
        if model.can_generate():
            ids, beams = inputs["input_ids"], {"max_new_tokens": 5, "num_beams": 3, "length_penalty": 0.6}
            print(model.generate(ids, max_new_tokens=5, do_sample=False).tolist())
            # The checkpoint carries the paper's beam search, which `generate` is from now on.
            print(model.generate(ids, **beams).tolist())
            print(again.generate(input_ids=ids, **beams).tolist())
            plain = type(model).generate(model, ids, custom_generate=str(folder), trust_remote_code=True, **beams)
            print(plain.tolist())
            assert model.generate(ids, do_sample=True, max_new_tokens=5).shape[0] == len(ids)
            assert len(model.generate(ids, output_attentions=True, return_dict_in_generate=True, max_new_tokens=2))
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
assert tokenizer.decode(tokenizer("Grüße, 世界").input_ids, skip_special_tokens=True) == "Grüße, 世界"
"""


@pytest.mark.parametrize(
    ("model_class", "auto_class"),
    [
        (VanillaForConditionalGeneration, "AutoModelForSeq2SeqLM"),
        (RecurrentForConditionalGeneration, "AutoModelForSeq2SeqLM"),
        (VanillaEncoderForMaskedLM, "AutoModelForMaskedLM"),
        (VanillaDecoderForCausalLM, "AutoModelForCausalLM"),
    ],
)
def test_a_folder_loads_where_the_package_is_not_installed(model_class, auto_class, tmp_path):
    model = small_model(model_class)
    inputs = batch_for(model_class, labels=False)
    model.save_pretrained(tmp_path)
    train_tokenizer(["some text", "noch ein Text"], vocab_size=300).save_pretrained(tmp_path)
    save_file(inputs, tmp_path / "inputs.safetensors")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    result = run_python(SCRIPT, tmp_path, auto_class, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    theirs = load_file(tmp_path / "outputs.safetensors")["logits"]
    torch.testing.assert_close(theirs, model(**inputs).logits.detach())
    if model.can_generate():
        ours = model.generate(inputs["input_ids"], max_new_tokens=5, do_sample=False).tolist()
        beams = {"max_new_tokens": 5, "num_beams": 3, "length_penalty": 0.6}
        searched = model.generate(inputs["input_ids"], **beams, custom_generate=beam_search).tolist()
        printed = [line for line in result.stdout.splitlines() if line.startswith("[[")]
        assert printed == [str(ours), *[str(searched)] * 3]
