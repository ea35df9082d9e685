"""Models of one size to time against each other: ours, those of transformers, and those of other libraries.

Each entry of a family's table makes, for a `Shape`, a model and the loss that its users would write: label-smoothed
where the family translates. Libraries that are not installed are left out by name. (fairseq 0.12 and OpenNMT-py 3.5
are not here: they demand a Python before 3.11 and a torch before 2.3.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_vanilla import (
    RecurrentConfig,
    RecurrentForConditionalGeneration,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaDecoderForCausalLM,
    VanillaEncoderConfig,
    VanillaEncoderForMaskedLM,
    VanillaForConditionalGeneration,
)

SMOOTHING = 0.1
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
Batch = dict[str, Tensor]
Peer = tuple[nn.Module, Callable[[Batch], Tensor]]


@dataclass
class Shape:
    """N layers a stack, d_model, h, d_ff, vocabulary, and the longest sequence."""

    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    length: int


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """As everybody writes it."""
    return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), label_smoothing=smoothing)


def translator(model: nn.Module) -> Peer:
    """A model of transformers: its logits, and label smoothing outside of it, as `Trainer` has it."""

    def loss(batch: Batch) -> Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "decoder_input_ids")}
        return cross_entropy(model(**inputs, use_cache=False).logits, batch["labels"], SMOOTHING)

    return model, loss


def ours(shape: Shape) -> Peer:
    """This package's."""
    config = VanillaConfig(
        vocab_size=shape.vocabulary, d_model=shape.width, h=shape.heads, d_ff=shape.inner, N=shape.layers
    )
    model = VanillaForConditionalGeneration(config)
    return model, lambda batch: model(**batch, label_smoothing=SMOOTHING).loss


def stacks(shape: Shape) -> dict[str, Any]:
    """The fields that Marian and BART share."""
    return {
        "vocab_size": shape.vocabulary,
        "d_model": shape.width,
        "max_position_embeddings": shape.length,
        "activation_function": "relu",
        "scale_embedding": True,
        "decoder_start_token_id": 1,
        "forced_eos_token_id": None,
        **{f"{stack}_layers": shape.layers for stack in ("encoder", "decoder")},
        **{f"{stack}_attention_heads": shape.heads for stack in ("encoder", "decoder")},
        **{f"{stack}_ffn_dim": shape.inner for stack in ("encoder", "decoder")},
        **TOKENS,
    }


def t5(shape: Shape) -> Peer:
    """T5 with the paper's feed-forward network."""
    config = T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        d_kv=shape.width // shape.heads,
        d_ff=shape.inner,
        num_layers=shape.layers,
        num_heads=shape.heads,
        decoder_start_token_id=1,
        **TOKENS,
    )
    return translator(T5ForConditionalGeneration(config))


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer` between the embeddings and the output projection that its users write around it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.register_buffer("positions", torch.randn(shape.length, shape.width))
        layers = shape.layers
        self.transformer = nn.Transformer(
            shape.width, shape.heads, layers, layers, shape.inner, 0.1, batch_first=True, norm_first=False
        )
        self.dropout = nn.Dropout(0.1)

    def embed(self, ids: Tensor) -> Tensor:
        """Scaled, with positions."""
        scaled = self.embedding(ids) * self.embedding.embedding_dim**0.5
        return self.dropout(scaled + self.positions[: ids.shape[1]])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Logits."""
        padding = attention_mask == 0
        causal = nn.Transformer.generate_square_subsequent_mask(decoder_input_ids.shape[1], decoder_input_ids.device)
        states = self.transformer(
            self.embed(input_ids),
            self.embed(decoder_input_ids),
            tgt_mask=causal,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return F.linear(states, self.embedding.weight)


def torch_transformer(shape: Shape) -> Peer:
    """See [`TorchTransformer`]."""
    model = TorchTransformer(shape)
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    return model, lambda batch: cross_entropy(model(*map(batch.get, names)), batch["labels"], SMOOTHING)


def x_transformers(shape: Shape) -> Peer:
    """x-transformers' encoder-decoder, with its flash attention."""
    from x_transformers import Decoder, Encoder, TransformerWrapper

    common = {
        "dim": shape.width,
        "depth": shape.layers,
        "heads": shape.heads,
        "pre_norm": False,
        "attn_flash": True,
        "attn_dim_head": shape.width // shape.heads,
        "attn_sublayer_dropout": 0.1,
        "ff_mult": shape.inner / shape.width,
        "ff_custom_activation": nn.ReLU(),
        "ff_sublayer_dropout": 0.1,
    }
    size = {"num_tokens": shape.vocabulary, "max_seq_len": shape.length, "emb_dropout": 0.1}
    model = nn.ModuleDict(
        {
            "encoder": TransformerWrapper(attn_layers=Encoder(**common), **size),
            "decoder": TransformerWrapper(
                attn_layers=Decoder(**common, cross_attend=True), **size, tie_embedding=True
            ),
        }
    )
    model["decoder"].token_emb = model["encoder"].token_emb

    def loss(batch: Batch) -> Tensor:
        mask = batch["attention_mask"].bool()
        encoded = model["encoder"](batch["input_ids"], mask=mask, return_embeddings=True)
        logits = model["decoder"](batch["decoder_input_ids"], context=encoded, context_mask=mask)
        return cross_entropy(logits, batch["labels"], SMOOTHING)

    return model, loss


class JoeyNMT(nn.Module):
    """The Transformer of JoeyNMT, and its loss without the rest of that library."""

    def __init__(self, shape: Shape) -> None:
        from joeynmt.decoders import TransformerDecoder
        from joeynmt.encoders import TransformerEncoder

        super().__init__()
        sizes: dict[str, Any] = {"num_layers": shape.layers, "num_heads": shape.heads, "hidden_size": shape.width}
        sizes |= {"ff_size": shape.inner, "layer_norm": "post"}
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.encoder = TransformerEncoder(**sizes)
        self.decoder = TransformerDecoder(vocab_size=shape.vocabulary, **sizes)
        self.decoder.output_layer.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Logits."""
        mask, scale = attention_mask.bool()[:, None], self.embedding.embedding_dim**0.5
        encoded, _ = self.encoder(self.embedding(input_ids) * scale, None, mask)
        target_mask = torch.ones_like(decoder_input_ids, dtype=torch.bool)[:, None]
        targets = self.embedding(decoder_input_ids) * scale
        return self.decoder(targets, encoded, None, mask, None, None, target_mask)[0]


def joeynmt(shape: Shape) -> Peer:
    """See [`JoeyNMT`]."""
    model = JoeyNMT(shape)
    names = ("input_ids", "attention_mask", "decoder_input_ids")
    return model, lambda batch: cross_entropy(model(*map(batch.get, names)), batch["labels"], SMOOTHING)


def own_loss(model: nn.Module) -> Peer:
    """A model with a loss of its own."""
    return model, lambda batch: model(**batch).loss


SEQ2SEQ: dict[str, Callable[[Shape], Peer]] = {
    "hf_vanilla": ours,
    "Marian": lambda shape: translator(MarianMTModel(MarianConfig(**stacks(shape)))),
    "BART": lambda shape: translator(BartForConditionalGeneration(BartConfig(**stacks(shape)))),
    "T5": t5,
    "nn.Transformer": torch_transformer,
    "x-transformers": x_transformers,
    "JoeyNMT": joeynmt,
}


def single_stack(shape: Shape) -> dict[str, Any]:
    """The fields that BERT, ModernBERT and Llama share."""
    return {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.length,
        **TOKENS,
    }


def our_encoder(shape: Shape) -> VanillaEncoderConfig:
    """The configuration of our encoder."""
    return VanillaEncoderConfig(**single_stack(shape), activation_function="gelu")


def bert(shape: Shape) -> BertConfig:
    """That of BERT, with dropout where the paper has it."""
    return BertConfig(**single_stack(shape), attention_probs_dropout_prob=0.0)


ENCODER: dict[str, Callable[[Shape], Peer]] = {
    "hf_vanilla": lambda shape: own_loss(VanillaEncoderForMaskedLM(our_encoder(shape))),
    "BERT": lambda shape: own_loss(BertForMaskedLM(bert(shape))),
    "ModernBERT": lambda shape: own_loss(
        ModernBertForMaskedLM(ModernBertConfig(**single_stack(shape), cls_token_id=1, sep_token_id=2))
    ),
}


def head(auto_class: Any) -> dict[str, Callable[[Shape], Peer]]:
    """The models to fine-tune by that class."""
    return {
        "hf_vanilla": lambda shape: own_loss(auto_class.from_config(our_encoder(shape))),
        "BERT": lambda shape: own_loss(auto_class.from_config(bert(shape))),
    }


HEADS = {
    "sequence_classification": head(AutoModelForSequenceClassification),
    "token_classification": head(AutoModelForTokenClassification),
    "question_answering": head(AutoModelForQuestionAnswering),
    "multiple_choice": head(AutoModelForMultipleChoice),
}

DECODER: dict[str, Callable[[Shape], Peer]] = {
    "hf_vanilla": lambda shape: own_loss(
        VanillaDecoderForCausalLM(
            VanillaDecoderConfig(**single_stack(shape), activation_function="gelu_new", norm_position="pre")
        )
    ),
    "GPT-2": lambda shape: own_loss(
        GPT2LMHeadModel(
            GPT2Config(
                vocab_size=shape.vocabulary,
                n_embd=shape.width,
                n_layer=shape.layers,
                n_head=shape.heads,
                n_inner=shape.inner,
                n_positions=shape.length,
                attn_pdrop=0.0,
                use_cache=False,
                **TOKENS,
            )
        )
    ),
    "Llama": lambda shape: own_loss(LlamaForCausalLM(LlamaConfig(**single_stack(shape), use_cache=False))),
}


def ours_recurrent(shape: Shape, attention_type: str) -> Peer:
    """This package's, of LSTMs."""
    config = RecurrentConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, N=shape.layers, attention_type=attention_type
    )
    model = RecurrentForConditionalGeneration(config)
    return model, lambda batch: model(**batch, label_smoothing=SMOOTHING).loss


class JoeyNMTRecurrent(nn.Module):
    """The recurrent model of JoeyNMT: it scores with the current state, and feeds the attentional vector if asked."""

    def __init__(self, shape: Shape, attention: str, input_feeding: bool) -> None:
        from joeynmt.decoders import RecurrentDecoder
        from joeynmt.encoders import RecurrentEncoder

        super().__init__()
        sizes: dict[str, Any] = {"rnn_type": "lstm", "emb_size": shape.width, "num_layers": shape.layers}
        sizes |= {"dropout": 0.1, "emb_dropout": 0.1}
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.encoder = RecurrentEncoder(hidden_size=shape.width // 2, **sizes)
        own: dict[str, Any] = {"attention": attention, "input_feeding": input_feeding, "vocab_size": shape.vocabulary}
        self.decoder = RecurrentDecoder(
            hidden_size=shape.width, encoder=self.encoder, hidden_dropout=0.1, **own, **sizes
        )
        self.decoder.output_layer.weight = self.embedding.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Logits of sources that are sorted, longest first."""
        mask = attention_mask.bool()[:, None]
        encoded, last = self.encoder(self.embedding(input_ids), attention_mask.sum(1), mask)
        targets = self.embedding(decoder_input_ids)
        return self.decoder(targets, encoded, last, mask, decoder_input_ids.shape[1])[0]


class TorchRecurrent(nn.Module):
    """What users of torch write: its LSTMs, packed in the encoder, and attention by hand."""

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
        """Logits."""
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


def recurrent(model: nn.Module) -> Peer:
    """Another library's, or torch's, on a batch sorted by the length of the source."""

    def loss(batch: Batch) -> Tensor:
        order = batch["attention_mask"].sum(1).argsort(descending=True)
        inputs = [batch[name][order] for name in ("input_ids", "attention_mask", "decoder_input_ids")]
        return cross_entropy(model(*inputs), batch["labels"][order], SMOOTHING)

    return model, loss


RECURRENT: dict[str, Callable[[Shape], Peer]] = {
    "hf_vanilla": lambda shape: ours_recurrent(shape, "additive"),
    "JoeyNMT": lambda shape: recurrent(JoeyNMTRecurrent(shape, "bahdanau", True)),
    "torch.nn": lambda shape: recurrent(TorchRecurrent(shape, True)),
}
RECURRENT_LUONG: dict[str, Callable[[Shape], Peer]] = {
    "hf_vanilla": lambda shape: ours_recurrent(shape, "general"),
    "JoeyNMT": lambda shape: recurrent(JoeyNMTRecurrent(shape, "luong", False)),
    "torch.nn": lambda shape: recurrent(TorchRecurrent(shape, False)),
}

FAMILIES = {
    "seq2seq": SEQ2SEQ,
    "encoder": ENCODER,
    **HEADS,
    "decoder": DECODER,
    "recurrent": RECURRENT,
    "recurrent_luong": RECURRENT_LUONG,
}
