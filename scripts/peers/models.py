"""Models of one size to measure against each other: ours, those of transformers, and those of other libraries.

Each entry of `FAMILIES` builds, for a `Shape`, a model and the loss that its users would write, with label smoothing
where the family translates. A library that is not installed raises ImportError. fairseq 0.12 and OpenNMT-py 3.5 are
missing, since they demand a Python before 3.11 and a torch before 2.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import hf_vanilla  # registers our model types

SMOOTHING = 0.1
INPUTS = ("input_ids", "attention_mask", "decoder_input_ids")
Batch = dict[str, Tensor]
Peer = tuple[nn.Module, Callable[[Batch], Tensor]]


@dataclass(frozen=True)
class Shape:
    """N layers a stack, d_model, h, d_ff, vocabulary, and the longest sequence."""

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    length: int = 512


Builder = Callable[[Shape], Peer]
SIZES = {
    "base": Shape(6, 512, 8, 2048, 37_000),
    "big": Shape(6, 1024, 16, 4096, 37_000),
    "small": Shape(3, 256, 4, 1024, 8000),
}


def configure(model_type: str, shape: Shape, **changes: object) -> transformers.PreTrainedConfig:
    """Return the configuration of a type in a shape, with the paper's activation; `changes` replace its fields."""
    fields = {"vocab_size": shape.vocabulary, "hidden_size": shape.width, "max_position_embeddings": shape.length}
    fields |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if model_type in ("marian", "bart"):
        for stack in ("encoder", "decoder"):
            sizes = {"layers": shape.layers, "attention_heads": shape.heads, "ffn_dim": shape.inner}
            fields |= {f"{stack}_{name}": size for name, size in sizes.items()}
        fields |= {"activation_function": "relu", "scale_embedding": True, "forced_eos_token_id": None}
    else:
        fields |= {"num_hidden_layers": shape.layers, "num_attention_heads": shape.heads}
        fields[{"t5": "d_ff", "gpt2": "n_inner"}.get(model_type, "intermediate_size")] = shape.inner
    if model_type in ("marian", "bart", "t5"):
        fields["decoder_start_token_id"] = 1
    if model_type == "t5":
        fields |= {"d_kv": shape.width // shape.heads, "num_decoder_layers": shape.layers}
    return transformers.AutoConfig.for_model(model_type, **fields | changes)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the label-smoothed loss of logits (batch, length, vocabulary) as users of torch write it."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=SMOOTHING)


def with_own_loss(model: nn.Module, **options: object) -> Peer:
    """Pair a model with the loss that it computes from labels itself."""
    return model, lambda batch: model(**batch, **options).loss


def single_stack(auto_class: Any, model_type: str, **changes: object) -> Builder:
    """Return what builds an encoder or a decoder with its own loss, by an Auto class."""
    return lambda shape: with_own_loss(auto_class.from_config(configure(model_type, shape, **changes)))


def encoder_decoder(shape: Shape, model_type: str) -> Peer:
    """Build an encoder-decoder of transformers, with the label-smoothed loss of its logits."""
    model = transformers.AutoModelForSeq2SeqLM.from_config(configure(model_type, shape))

    def loss(batch: Batch) -> Tensor:
        logits = model(**{name: batch[name] for name in INPUTS}, use_cache=False).logits
        return cross_entropy(logits, batch["labels"])

    return model, loss


def ours(shape: Shape, name: str, **fields: object) -> Peer:
    """Build this package's encoder-decoder "Vanilla" or "Recurrent", which computes the label-smoothed loss itself."""
    fields |= {"vocab_size": shape.vocabulary, "hidden_size": shape.width, "N": shape.layers}
    model = getattr(hf_vanilla, f"{name}ForConditionalGeneration")
    return with_own_loss(model(model.config_class(**fields)), label_smoothing=SMOOTHING, output_logits=False)


def vanilla(shape: Shape) -> Peer:
    """Build this package's Transformer."""
    return ours(shape, "Vanilla", num_attention_heads=shape.heads, intermediate_size=shape.inner)


def with_positional_inputs(model: nn.Module, longest_first: bool = False) -> Peer:
    """Pair a module that takes `INPUTS` in order with a label-smoothed loss; `longest_first` sorts by length."""

    def loss(batch: Batch) -> Tensor:
        order = batch["attention_mask"].sum(1).argsort(descending=True) if longest_first else slice(None)
        return cross_entropy(model(*(batch[name][order] for name in INPUTS)), batch["labels"][order])

    return model, loss


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer` between the embeddings and the output projection that its users write around it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.register_buffer("positions", torch.randn(shape.length, shape.width))
        sizes = (shape.width, shape.heads, shape.layers, shape.layers, shape.inner, 0.1)
        self.transformer = nn.Transformer(*sizes, batch_first=True)
        self.dropout = nn.Dropout(0.1)

    def embed(self, ids: Tensor) -> Tensor:
        scaled = self.embedding(ids) * self.embedding.embedding_dim**0.5
        return self.dropout(scaled + self.positions[: ids.shape[1]])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        padding = attention_mask == 0
        causal = nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1], decoder_input_ids.device)
        embedded = (self.embed(ids) for ids in (input_ids, decoder_input_ids))
        masks = {"src_key_padding_mask": padding, "memory_key_padding_mask": padding, "tgt_mask": causal}
        states = self.transformer(*embedded, **masks, tgt_is_causal=True)
        return F.linear(states, self.embedding.weight)


def x_transformers(shape: Shape) -> Peer:
    """Build the encoder-decoder of x-transformers, with its flash attention."""
    from x_transformers import Decoder, Encoder, TransformerWrapper

    common = {"dim": shape.width, "depth": shape.layers, "heads": shape.heads, "pre_norm": False}
    common |= {"attn_flash": True, "attn_dim_head": shape.width // shape.heads, "attn_sublayer_dropout": 0.1}
    common |= {"ff_mult": shape.inner / shape.width, "ff_custom_activation": nn.ReLU(), "ff_sublayer_dropout": 0.1}
    size = {"num_tokens": shape.vocabulary, "max_seq_len": shape.length, "emb_dropout": 0.1}
    encoder = TransformerWrapper(attn_layers=Encoder(**common), **size)
    decoder = TransformerWrapper(attn_layers=Decoder(**common, cross_attend=True), **size, tie_embedding=True)
    decoder.token_emb = encoder.token_emb

    def loss(batch: Batch) -> Tensor:
        mask = batch["attention_mask"].bool()
        encoded = encoder(batch["input_ids"], mask=mask, return_embeddings=True)
        logits = decoder(batch["decoder_input_ids"], context=encoded, context_mask=mask)
        return cross_entropy(logits, batch["labels"])

    return nn.ModuleDict({"encoder": encoder, "decoder": decoder}), loss


class JoeyNMT(nn.Module):
    """The Transformer of JoeyNMT without the rest of that library."""

    def __init__(self, shape: Shape) -> None:
        from joeynmt.decoders import TransformerDecoder
        from joeynmt.encoders import TransformerEncoder

        super().__init__()
        sizes = {"num_layers": shape.layers, "num_heads": shape.heads, "hidden_size": shape.width}
        sizes |= {"ff_size": shape.inner, "layer_norm": "post"}
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.encoder = TransformerEncoder(**sizes)
        self.decoder = TransformerDecoder(vocab_size=shape.vocabulary, **sizes)
        self.decoder.output_layer.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        mask, scale = attention_mask.bool()[:, None], self.embedding.embedding_dim**0.5
        encoded, _ = self.encoder(self.embedding(input_ids) * scale, None, mask)
        target_mask = torch.ones_like(decoder_input_ids, dtype=torch.bool)[:, None]
        targets = self.embedding(decoder_input_ids) * scale
        return self.decoder(targets, encoded, None, mask, None, None, target_mask)[0]


class JoeyNMTRecurrent(nn.Module):
    """The recurrent model of JoeyNMT, with attention "bahdanau" or "luong"; for sources sorted longest first."""

    def __init__(self, shape: Shape, attention: str, input_feeding: bool) -> None:
        from joeynmt.decoders import RecurrentDecoder
        from joeynmt.encoders import RecurrentEncoder

        super().__init__()
        sizes = {"rnn_type": "lstm", "emb_size": shape.width, "num_layers": shape.layers}
        sizes |= {"dropout": 0.1, "emb_dropout": 0.1}
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.encoder = RecurrentEncoder(hidden_size=shape.width // 2, **sizes)
        sizes |= {"attention": attention, "input_feeding": input_feeding, "vocab_size": shape.vocabulary}
        self.decoder = RecurrentDecoder(hidden_size=shape.width, encoder=self.encoder, hidden_dropout=0.1, **sizes)
        self.decoder.output_layer.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        mask = attention_mask.bool()[:, None]
        encoded, last = self.encoder(self.embedding(input_ids), attention_mask.sum(1), mask)
        targets = self.embedding(decoder_input_ids)
        return self.decoder(targets, encoded, last, mask, decoder_input_ids.shape[1])[0]


class TorchRecurrent(nn.Module):
    """torch's LSTMs with attention by hand: Bahdanau's step by step if `is_additive`, else Luong's s^T W h at once."""

    def __init__(self, shape: Shape, is_additive: bool) -> None:
        super().__init__()
        width, layers = shape.width, shape.layers
        self.embedding = nn.Embedding(shape.vocabulary, width)
        self.encoder = nn.LSTM(width, width // 2, layers, batch_first=True, bidirectional=True, dropout=0.1)
        self.bridge = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)
        self.key = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width * (3 if is_additive else 2), width)
        self.is_additive = is_additive
        if is_additive:
            self.cells = nn.ModuleList(nn.LSTMCell(width if i else 2 * width, width) for i in range(layers))
            self.query, self.energy = nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)
        else:
            self.decoder = nn.LSTM(width, width, layers, batch_first=True, dropout=0.1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        sources, targets = (self.dropout(self.embedding(ids)) for ids in (input_ids, decoder_input_ids))
        lengths = attention_mask.sum(1).cpu()
        packed = nn.utils.rnn.pack_padded_sequence(sources, lengths, batch_first=True, enforce_sorted=False)
        packed, (last, _) = self.encoder(packed)
        encoded = nn.utils.rnn.pad_packed_sequence(packed, batch_first=True, total_length=sources.shape[1])[0]
        first, keys = torch.tanh(self.bridge(torch.cat((last[-2], last[-1]), 1))), self.key(encoded)
        padding = attention_mask[:, None] == 0
        if not self.is_additive:
            layers = self.decoder.num_layers
            states, _ = self.decoder(targets, (first.expand(layers, -1, -1).contiguous(),) * 2)
            weights = (states @ keys.transpose(1, 2)).masked_fill(padding, -torch.inf).softmax(-1)
            parts = torch.cat((weights @ encoded, states), -1)
        else:
            states, outputs = [(first, first)] * len(self.cells), []
            for t in range(targets.shape[1]):
                scores = self.energy(torch.tanh(self.query(states[-1][0])[:, None] + keys)).squeeze(-1)
                weights = scores.masked_fill(padding[:, 0], -torch.inf).softmax(-1)
                context = (weights[:, None] @ encoded).squeeze(1)
                x = inner = torch.cat((targets[:, t], context), -1)
                for number, cell in enumerate(self.cells):
                    states[number] = cell(self.dropout(inner) if number else inner, states[number])
                    inner = states[number][0]
                outputs.append(torch.cat((x, inner), -1))
            parts = torch.stack(outputs, 1)
        return F.linear(self.dropout(torch.tanh(self.output(parts))), self.embedding.weight)


def recurrent_family(attention_type: str, joeynmt: tuple[str, bool], is_additive: bool) -> dict[str, Builder]:
    """Return the recurrent models that attend in one way, by the name that each library has for it."""
    return {
        "hf_vanilla": lambda shape: ours(shape, "Recurrent", attention_type=attention_type),
        "JoeyNMT": lambda shape: with_positional_inputs(JoeyNMTRecurrent(shape, *joeynmt), longest_first=True),
        "torch.nn": lambda shape: with_positional_inputs(TorchRecurrent(shape, is_additive), longest_first=True),
    }


def encoders(auto_class: Any) -> dict[str, Builder]:
    """Return our encoder, with BERT's activation, and BERT, with dropout where the paper has it, by an Auto class."""
    return {
        "hf_vanilla": single_stack(auto_class, "vanilla_encoder", activation_function="gelu", output_logits=False),
        "BERT": single_stack(auto_class, "bert", attention_probs_dropout_prob=0.0),
    }


HEADS = {
    name: encoders(getattr(transformers, f"AutoModelFor{name.title().replace('_', '')}"))
    for name in ("sequence_classification", "token_classification", "question_answering", "multiple_choice")
}
MASKED, CAUSAL = transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM
FAMILIES: dict[str, dict[str, Builder]] = {
    "seq2seq": {
        "hf_vanilla": vanilla,
        "Marian": lambda shape: encoder_decoder(shape, "marian"),
        "BART": lambda shape: encoder_decoder(shape, "bart"),
        "T5": lambda shape: encoder_decoder(shape, "t5"),
        "nn.Transformer": lambda shape: with_positional_inputs(TorchTransformer(shape)),
        "x-transformers": x_transformers,
        "JoeyNMT": lambda shape: with_positional_inputs(JoeyNMT(shape)),
    },
    "encoder": {
        **encoders(MASKED),
        "ModernBERT": single_stack(MASKED, "modernbert", cls_token_id=1, sep_token_id=2),
    },
    **HEADS,
    "decoder": {
        "hf_vanilla": single_stack(
            CAUSAL, "vanilla_decoder", activation_function="gelu_new", norm_position="pre", output_logits=False
        ),
        "GPT-2": single_stack(CAUSAL, "gpt2", attn_pdrop=0.0, use_cache=False),
        "Llama": single_stack(CAUSAL, "llama", use_cache=False),
    },
    "recurrent": recurrent_family("additive", ("bahdanau", True), is_additive=True),
    "recurrent_luong": recurrent_family("general", ("luong", False), is_additive=False),
}
