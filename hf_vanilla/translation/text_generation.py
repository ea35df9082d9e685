"""Texts that a language model writes."""

from collections.abc import Iterable
from typing import Any

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, TextStreamer, set_seed

from hf_vanilla.environment import keep_freed_memory, use_onednn_for_float32
from hf_vanilla.models.generation_vanilla import beam_search
from hf_vanilla.models.texts_vanilla import encode_texts
from hf_vanilla.translation.loading import load_config_and_tokenizer, positions_of


@torch.inference_mode()
def generate_texts(
    name: str, prompts: Iterable[str], seed: int, max_new_tokens: int, num_beams: int, **sampling: float
) -> None:
    """Continue texts (possibly empty) with a causal language model, and print them token by token.

    With `num_beams` above 1, a beam search, the paper's for models of the decoder family, prints them text by text.
    With 1, `seed` and `sampling` (`temperature`, `top_k`, `top_p`) choose tokens; at temperature 0, it is the most
    probable one. A text that does not end itself ends after `max_new_tokens`.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: it is no language model, has no tokenizer, or has no positions for so many tokens.
    """
    keep_freed_memory()
    use_onednn_for_float32()
    set_seed(seed)
    config, tokenizer = load_config_and_tokenizer(name, AutoModelForCausalLM, "one that continues texts")
    device = PartialState().device
    model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype="auto").to(device).eval()
    limit, start = positions_of(config), tokenizer.bos_token_id
    search: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": False}
    if num_beams == 1 and sampling["temperature"]:
        search |= {"do_sample": True, **sampling}
    elif num_beams > 1 and config.model_type == "vanilla_decoder":
        search["custom_generate"] = beam_search
    streamer = None if num_beams > 1 else TextStreamer(tokenizer, skip_special_tokens=True)
    for prompt in prompts:
        ids = encode_texts(tokenizer, prompt)["input_ids"]
        # In training a text has a first token before its first word.
        ids = ids if start is None or ids[:1] == [start] else [start, *ids]
        if len(ids) + max_new_tokens > limit:
            beyond = f"with {max_new_tokens} new ones more than the model's {limit}"
            raise ValueError(f"the prompt has {len(ids)} tokens, {beyond}")
        inputs = torch.tensor([ids], device=device)
        output = model.generate(inputs, attention_mask=torch.ones_like(inputs), streamer=streamer, **search)
        if streamer is None:  # beams have no last token before their end
            print(tokenizer.decode(output[0], skip_special_tokens=True), flush=True)
