"""What corresponds to what, as data: tables of names, of fields, and of what cannot be had, for BERT, RoBERTa,
DistilBERT, GPT-2, Marian, BART and `torch.nn.Transformer`. `convert.py` follows them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hf_vanilla.models.configuration_vanilla import (
    VanillaBaseConfig,
    VanillaConfig,
    VanillaDecoderConfig,
    VanillaEncoderConfig,
)

# Our name, then theirs. Where ours has `{qkv}` and theirs has not, theirs holds the three, one below the other.
Names = tuple[tuple[str, str], ...]
PLACEHOLDERS = {"stack": "encoder|decoder", "n": r"\d+", "qkv": "[qkv]", "p": "weight|bias"}


@dataclass(frozen=True)
class Format:
    """One of their families, as seen from ours.

    Attributes:
        family: our configuration.
        base: how their base model is called in models with a head.
        classes: theirs, and ours that does the same; where two become one, back goes the first.
        fields: ours, and what they call it; several of theirs must agree.
        fixed: what ours must be, for theirs has no choice.
        required: what theirs must be, for ours has no choice.
        names, heads: tables of names, within the base model and of the whole.
        transposed: which of their matrices are (in, out).
        without: theirs that we may have nothing for, where zeros are the same as nothing.
        left_behind: theirs that none of our classes has.
        buffers: what is no weight, or one that nothing reads.
    """

    family: type[VanillaBaseConfig]
    base: str
    classes: dict[str, str]
    fields: dict[str, str | tuple[str, ...]]
    fixed: dict[str, Any]
    names: Names
    heads: Names = ()
    required: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    transposed: str = ""
    without: str = ""
    left_behind: str = ""
    buffers: str = ""


COMMON = {
    name: name
    for name in (
        *("vocab_size", "hidden_size", "max_position_embeddings", "tie_word_embeddings"),
        *("pad_token_id", "bos_token_id", "eos_token_id"),
    )
}
STACK = {**COMMON, "num_hidden_layers": "num_hidden_layers", "num_attention_heads": "num_attention_heads"}
LIKE_BERT = {
    "norm_position": "post",
    "position_embedding_type": "learned",
    "embedding_norm": True,
    "scale_embedding": False,
}
BERT_FIELDS: dict[str, str | tuple[str, ...]] = {
    **STACK,
    "intermediate_size": "intermediate_size",
    "activation_function": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "classifier_dropout": "classifier_dropout",
    "type_vocab_size": "type_vocab_size",
    "layer_norm_eps": "layer_norm_eps",
    "initializer_range": "initializer_range",
}
BERT_NAMES: Names = (
    ("embed_tokens.weight", "embeddings.word_embeddings.weight"),
    ("embed_positions.weight", "embeddings.position_embeddings.weight"),
    ("embed_token_types.weight", "embeddings.token_type_embeddings.weight"),
    ("embedding_norm.{p}", "embeddings.LayerNorm.{p}"),
    ("layers.{n}.self_attention.q_proj.{p}", "encoder.layer.{n}.attention.self.query.{p}"),
    ("layers.{n}.self_attention.k_proj.{p}", "encoder.layer.{n}.attention.self.key.{p}"),
    ("layers.{n}.self_attention.v_proj.{p}", "encoder.layer.{n}.attention.self.value.{p}"),
    ("layers.{n}.self_attention.o_proj.{p}", "encoder.layer.{n}.attention.output.dense.{p}"),
    ("layers.{n}.self_attention_norm.{p}", "encoder.layer.{n}.attention.output.LayerNorm.{p}"),
    ("layers.{n}.feed_forward.linear1.{p}", "encoder.layer.{n}.intermediate.dense.{p}"),
    ("layers.{n}.feed_forward.linear2.{p}", "encoder.layer.{n}.output.dense.{p}"),
    ("layers.{n}.feed_forward_norm.{p}", "encoder.layer.{n}.output.LayerNorm.{p}"),
    ("pooler.dense.{p}", "pooler.dense.{p}"),
)
ENCODER_HEADS = ("Model", *(f"For{task}" for task in ("MaskedLM", "SequenceClassification", "TokenClassification")))
ENCODER_HEADS += ("ForQuestionAnswering", "ForMultipleChoice")
NO_CROSS_ATTENTION = {"is_decoder": (False,), "add_cross_attention": (False,)}

BERT = Format(
    family=VanillaEncoderConfig,
    base="bert",
    classes={f"Bert{head}": f"VanillaEncoder{head}" for head in ENCODER_HEADS}
    | {"BertForPreTraining": "VanillaEncoderForMaskedLM"},
    fields=BERT_FIELDS,
    fixed={**LIKE_BERT, "position_offset": 0, "classifier_activation": "tanh"},
    required=NO_CROSS_ATTENTION,
    names=BERT_NAMES,
    heads=(
        ("transform.dense.{p}", "cls.predictions.transform.dense.{p}"),
        ("transform.norm.{p}", "cls.predictions.transform.LayerNorm.{p}"),
        ("lm_head.{p}", "cls.predictions.decoder.{p}"),
        ("classifier.dense.{p}", "bert.pooler.dense.{p}"),
        ("classifier.out_proj.{p}", "classifier.{p}"),
        ("classifier.{p}", "classifier.{p}"),
        ("qa_outputs.{p}", "qa_outputs.{p}"),
        ("score.dense.{p}", "bert.pooler.dense.{p}"),
        ("score.out_proj.{p}", "classifier.{p}"),
    ),
    without=r".*token_type_embeddings\.weight|cls\.predictions\.bias",
    left_behind=r"(bert\.)?pooler\..*|cls\.seq_relationship\..*",
    buffers=r".*\.(position_ids|token_type_ids)|cls\.predictions\.bias",
)

ROBERTA = Format(
    family=VanillaEncoderConfig,
    base="roberta",
    classes={f"Roberta{head}": f"VanillaEncoder{head}" for head in ENCODER_HEADS},
    fields=BERT_FIELDS,
    fixed={**LIKE_BERT, "classifier_activation": "tanh"},
    required=NO_CROSS_ATTENTION,
    names=BERT_NAMES,
    heads=(
        ("transform.dense.{p}", "lm_head.dense.{p}"),
        ("transform.norm.{p}", "lm_head.layer_norm.{p}"),
        ("lm_head.{p}", "lm_head.decoder.{p}"),
        ("classifier.dense.{p}", "classifier.dense.{p}"),
        ("classifier.out_proj.{p}", "classifier.out_proj.{p}"),
        ("classifier.{p}", "classifier.{p}"),
        ("qa_outputs.{p}", "qa_outputs.{p}"),
        ("score.dense.{p}", "roberta.pooler.dense.{p}"),
        ("score.out_proj.{p}", "classifier.{p}"),
    ),
    without=r".*token_type_embeddings\.weight|lm_head\.bias",
    left_behind=r"(roberta\.)?pooler\..*",
    buffers=r".*\.(position_ids|token_type_ids)|lm_head\.bias",
)

DISTILBERT = Format(
    family=VanillaEncoderConfig,
    base="distilbert",
    classes={f"DistilBert{head}": f"VanillaEncoder{head}" for head in ENCODER_HEADS},
    fields={
        **STACK,
        "intermediate_size": "hidden_dim",
        "activation_function": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "classifier_dropout": "seq_classif_dropout",
        "initializer_range": "initializer_range",
    },
    fixed={
        **LIKE_BERT,
        "position_offset": 0,
        "type_vocab_size": 0,
        "add_pooling_layer": False,
        "layer_norm_eps": 1e-12,
        "classifier_activation": "relu",
    },
    names=(
        ("embed_tokens.weight", "embeddings.word_embeddings.weight"),
        ("embed_positions.weight", "embeddings.position_embeddings.weight"),
        ("embedding_norm.{p}", "embeddings.LayerNorm.{p}"),
        ("layers.{n}.self_attention.q_proj.{p}", "transformer.layer.{n}.attention.q_lin.{p}"),
        ("layers.{n}.self_attention.k_proj.{p}", "transformer.layer.{n}.attention.k_lin.{p}"),
        ("layers.{n}.self_attention.v_proj.{p}", "transformer.layer.{n}.attention.v_lin.{p}"),
        ("layers.{n}.self_attention.o_proj.{p}", "transformer.layer.{n}.attention.out_lin.{p}"),
        ("layers.{n}.self_attention_norm.{p}", "transformer.layer.{n}.sa_layer_norm.{p}"),
        ("layers.{n}.feed_forward.linear1.{p}", "transformer.layer.{n}.ffn.lin1.{p}"),
        ("layers.{n}.feed_forward.linear2.{p}", "transformer.layer.{n}.ffn.lin2.{p}"),
        ("layers.{n}.feed_forward_norm.{p}", "transformer.layer.{n}.output_layer_norm.{p}"),
    ),
    heads=(
        ("transform.dense.{p}", "vocab_transform.{p}"),
        ("transform.norm.{p}", "vocab_layer_norm.{p}"),
        ("lm_head.{p}", "vocab_projector.{p}"),
        ("classifier.dense.{p}", "pre_classifier.{p}"),
        ("classifier.out_proj.{p}", "classifier.{p}"),
        ("classifier.{p}", "classifier.{p}"),
        ("qa_outputs.{p}", "qa_outputs.{p}"),
        ("score.dense.{p}", "pre_classifier.{p}"),
        ("score.out_proj.{p}", "classifier.{p}"),
    ),
    buffers=r".*\.position_ids",
)

GPT2 = Format(
    family=VanillaDecoderConfig,
    base="transformer",
    classes={
        "GPT2Model": "VanillaDecoderModel",
        "GPT2LMHeadModel": "VanillaDecoderForCausalLM",
        "GPT2ForSequenceClassification": "VanillaDecoderForSequenceClassification",
        "GPT2ForTokenClassification": "VanillaDecoderForTokenClassification",
    },
    fields={
        **STACK,
        "activation_function": "activation_function",
        "dropout": ("resid_pdrop", "embd_pdrop"),
        "attention_dropout": "attn_pdrop",
        "layer_norm_eps": "layer_norm_epsilon",
        "initializer_range": "initializer_range",
        "use_cache": "use_cache",
        "intermediate_size": "n_inner",
    },
    fixed={
        "norm_position": "pre",
        "position_embedding_type": "learned",
        "position_offset": 0,
        "embedding_norm": False,
        "scale_embedding": False,
    },
    required={
        "add_cross_attention": (False,),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
    },
    names=(
        ("embed_tokens.weight", "wte.weight"),
        ("embed_positions.weight", "wpe.weight"),
        ("layers.{n}.self_attention_norm.{p}", "h.{n}.ln_1.{p}"),
        ("layers.{n}.self_attention.{qkv}_proj.{p}", "h.{n}.attn.c_attn.{p}"),
        ("layers.{n}.self_attention.o_proj.{p}", "h.{n}.attn.c_proj.{p}"),
        ("layers.{n}.feed_forward_norm.{p}", "h.{n}.ln_2.{p}"),
        ("layers.{n}.feed_forward.linear1.{p}", "h.{n}.mlp.c_fc.{p}"),
        ("layers.{n}.feed_forward.linear2.{p}", "h.{n}.mlp.c_proj.{p}"),
        ("norm.{p}", "ln_f.{p}"),
    ),
    heads=(
        ("lm_head.weight", "lm_head.weight"),
        ("score.weight", "score.weight"),
        ("classifier.{p}", "classifier.{p}"),
    ),
    transposed=r".*\.c_\w+\.weight",
    buffers=r".*\.attn\.(masked_)?bias",
)

SEQ2SEQ_FIELDS: dict[str, str | tuple[str, ...]] = {
    **COMMON,
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "num_attention_heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "intermediate_size": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "activation_function": "activation_function",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "initializer_range": "init_std",
    "scale_embedding": "scale_embedding",
    "decoder_start_token_id": "decoder_start_token_id",
    "use_cache": "use_cache",
}
SEQ2SEQ_FIXED = {"norm_position": "post", "layer_norm_eps": 1e-5}
SEQ2SEQ_NAMES: Names = (
    ("{stack}.embed_tokens.weight", "{stack}.embed_tokens.weight"),
    ("{stack}.embed_positions.weight", "{stack}.embed_positions.weight"),
    ("{stack}.embedding_norm.{p}", "{stack}.layernorm_embedding.{p}"),
    ("{stack}.layers.{n}.self_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.self_attn.{qkv}_proj.{p}"),
    ("{stack}.layers.{n}.self_attention.o_proj.{p}", "{stack}.layers.{n}.self_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.self_attention_norm.{p}", "{stack}.layers.{n}.self_attn_layer_norm.{p}"),
    ("{stack}.layers.{n}.cross_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.encoder_attn.{qkv}_proj.{p}"),
    ("{stack}.layers.{n}.cross_attention.o_proj.{p}", "{stack}.layers.{n}.encoder_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.cross_attention_norm.{p}", "{stack}.layers.{n}.encoder_attn_layer_norm.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear1.{p}", "{stack}.layers.{n}.fc1.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear2.{p}", "{stack}.layers.{n}.fc2.{p}"),
    ("{stack}.layers.{n}.feed_forward_norm.{p}", "{stack}.layers.{n}.final_layer_norm.{p}"),
)
SEQ2SEQ_HEADS: Names = (("lm_head.weight", "lm_head.weight"), ("lm_head.bias", "final_logits_bias"))

MARIAN = Format(
    family=VanillaConfig,
    base="model",
    classes={"MarianModel": "VanillaModel", "MarianMTModel": "VanillaForConditionalGeneration"},
    fields=SEQ2SEQ_FIELDS,
    fixed={**SEQ2SEQ_FIXED, "position_embedding_type": "sinusoidal_halves", "embedding_norm": False},
    required={"is_decoder": (False,)},
    names=SEQ2SEQ_NAMES,
    heads=SEQ2SEQ_HEADS,
    without=r"final_logits_bias",
    buffers=r".*\.embed_positions\.weight|model\.shared\.weight",
)

BART = Format(
    family=VanillaConfig,
    base="model",
    classes={"BartModel": "VanillaModel", "BartForConditionalGeneration": "VanillaForConditionalGeneration"},
    fields=SEQ2SEQ_FIELDS,
    fixed={
        **SEQ2SEQ_FIXED,
        "position_embedding_type": "learned",
        "position_offset": 2,
        "embedding_norm": True,
    },
    required={"is_decoder": (False,)},
    names=SEQ2SEQ_NAMES,
    heads=SEQ2SEQ_HEADS,
    without=r"final_logits_bias|(model\.)?shared\.weight",
    buffers=r".*\.version|(model\.)?shared\.weight",
)

# `torch.nn.Transformer` has neither embeddings nor an output projection; a state dict may hold ours beside it.
TORCH_NAMES: Names = (
    ("{stack}.embed_tokens.weight", "{stack}.embed_tokens.weight"),
    ("{stack}.embed_positions.weight", "{stack}.embed_positions.weight"),
    ("{stack}.layers.{n}.self_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.self_attn.in_proj_{p}"),
    ("{stack}.layers.{n}.self_attention.o_proj.{p}", "{stack}.layers.{n}.self_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.self_attention_norm.{p}", "{stack}.layers.{n}.norm1.{p}"),
    ("{stack}.layers.{n}.cross_attention.{qkv}_proj.{p}", "{stack}.layers.{n}.multihead_attn.in_proj_{p}"),
    ("{stack}.layers.{n}.cross_attention.o_proj.{p}", "{stack}.layers.{n}.multihead_attn.out_proj.{p}"),
    ("{stack}.layers.{n}.cross_attention_norm.{p}", "{stack}.layers.{n}.norm2.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear1.{p}", "{stack}.layers.{n}.linear1.{p}"),
    ("{stack}.layers.{n}.feed_forward.linear2.{p}", "{stack}.layers.{n}.linear2.{p}"),
    ("encoder.layers.{n}.feed_forward_norm.{p}", "encoder.layers.{n}.norm2.{p}"),
    ("decoder.layers.{n}.feed_forward_norm.{p}", "decoder.layers.{n}.norm3.{p}"),
    ("{stack}.norm.{p}", "{stack}.norm.{p}"),
)
TORCH_HEADS: Names = (("lm_head.{p}", "lm_head.{p}"),)

FORMATS = {"bert": BERT, "roberta": ROBERTA, "distilbert": DISTILBERT, "gpt2": GPT2, "marian": MARIAN, "bart": BART}

# What our blocks do not have, and the fields by which a configuration asks for it.
IMPOSSIBLE: dict[str, tuple[str, ...]] = {
    "relative positions": ("relative_attention_num_buckets", "relative_attention", "relative_pos_enc"),
    "rotary positions": ("rope_parameters", "rope_theta", "rope_scaling", "rotary_dim", "rotary_pct"),
    "positions as biases (ALiBi)": ("alibi",),
    "gated feed-forward networks": ("is_gated_act", "is_glu_act", "use_gated_mlp"),
    "mixtures of experts": ("num_experts", "num_local_experts"),
    "quantised weights": ("quantization_config",),
}

# By our names: the dimension of a weight that is the hidden states'.
HIDDEN_DIMENSION = (
    (re.compile(r".*(embed_tokens|lm_head|[qkv]_proj|linear1)\.weight"), 1),
    (re.compile(r".*(o_proj|linear2|norm)\.(weight|bias)"), 0),
)


def pair(ours: Iterable[str], table: Names) -> dict[str, list[str]]:
    """For each of their names those of ours that it holds: one, or q, k and v.

    Raises:
        ValueError: for one of ours that the table does not have.
    """
    patterns = []
    for own, theirs in table:
        pattern = re.escape(own)
        for placeholder, allowed in PLACEHOLDERS.items():
            pattern = pattern.replace(rf"\{{{placeholder}\}}", f"(?P<{placeholder}>{allowed})")
        patterns.append((re.compile(pattern), theirs))
    pairs: dict[str, list[str]] = {}
    for name in ours:
        for expression, theirs in patterns:
            if match := expression.fullmatch(name):
                pairs.setdefault(theirs.format(**match.groupdict()), []).append(name)
                break
        else:
            raise ValueError(f"{name} has no counterpart among their weights")
    return pairs


def table_of(form: Format, our_class: Any) -> Names:
    """The names of two classes: within models with a head, those of the base model have its name before them."""
    has_head = "For" in our_class.__name__
    ours, theirs = (f"{prefix}." if has_head else "" for prefix in (our_class.base_model_prefix, form.base))
    return (*((ours + own, theirs + their) for own, their in form.names), *form.heads)
