"""Texts that a language model writes."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, TextStreamer

from hf_vanilla.environment import use_onednn_for_float32
from hf_vanilla.models.generation_vanilla import beam_search
from hf_vanilla.translation.loading import load_config_and_tokenizer, positions_of


@torch.inference_mode()
def generate_texts(
    name: str, prompts: Iterable[str], max_new_tokens: int, num_beams: int, temperature: float, **sampling: float
) -> None:
    """Continue texts with a language model, and print them token by token (beams: text by text).

    Args:
        name: folder or Hub id of a model of the decoder family, or another causal language model.
        prompts: beginnings of texts; "" for a text from its beginning.
        max_new_tokens: length at which a text that does not end itself is cut off.
        num_beams: with more than 1, beam search (the paper's, for models of the decoder family), and no sampling.
        temperature: divisor of the logits before sampling; 0 takes the most probable token.
        sampling: `top_k` and `top_p`.

    Raises:
        FileNotFoundError: there is no such folder or model.
        ValueError: it is no language model, has no tokenizer, or has no positions for so many tokens.
    """
    from accelerate import PartialState

    use_onednn_for_float32()
    config, tokenizer = load_config_and_tokenizer(name, AutoModelForCausalLM, "one that continues texts")
    device = PartialState().device
    model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype="auto").to(device).eval()
    limit, start = positions_of(config), tokenizer.bos_token_id
    search: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams, "do_sample": False}
    if num_beams == 1 and temperature:
        search |= {"do_sample": True, "temperature": temperature, **sampling}
    elif num_beams > 1 and config.model_type == "vanilla_decoder":
        search["custom_generate"] = beam_search
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        # In training a text has a first token before its first word.
        ids = ids if start is None or ids[:1] == [start] else [start, *ids]
        if len(ids) + max_new_tokens > limit:
            raise ValueError(
                f"the prompt has {len(ids)} tokens, with {max_new_tokens} new ones more than the model's {limit}"
            )
        inputs = torch.tensor([ids], device=device)
        streamer = TextStreamer(tokenizer, skip_special_tokens=True) if num_beams == 1 else None
        output = model.generate(inputs, attention_mask=torch.ones_like(inputs), streamer=streamer, **search)
        if streamer is None:  # beams have no last token before their end
            print(tokenizer.decode(output[0], skip_special_tokens=True), flush=True)
