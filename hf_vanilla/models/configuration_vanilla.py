"""Configurations of the three Transformer families: encoder-decoder (the paper), encoder-only and decoder-only."""

import dataclasses
import shutil
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_import_files

# The paper's names, understood wherever a field is read or given.
PAPER_NAMES = {
    "d_model": "hidden_size",
    "d_ff": "intermediate_size",
    "h": "num_attention_heads",
    "d_k": "qk_head_dim",
    "d_v": "v_head_dim",
    "P_drop": "dropout",
    "hidden_act": "activation_function",
}

# The names of a stack alone, whose depth may also be called as in an encoder-decoder.
STACK_NAMES = PAPER_NAMES | {"N": "num_hidden_layers"}
# What N is of an encoder-decoder.
BOTH_DEPTHS = ("encoder_layers", "decoder_layers")

# The pipeline that translators carry, as `pipeline("translation", trust_remote_code=True)` looks it up.
TRANSLATION = {
    task: {"impl": "pipeline_vanilla.TranslationPipeline", "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}
    for task in ("translation", "text2text-generation")
}

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "qk_head_dim", "v_head_dim", "max_position_embeddings")
COUNTS = ("num_attention_heads", "encoder_layers", "decoder_layers", "num_hidden_layers", "attention_window")
RATES = ("dropout", "attention_dropout", "activation_dropout", "classifier_dropout")
# Fields of any family, the condition on their values, and how an error puts it.
BOUNDS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    ((*SIZES, *COUNTS), lambda value: value >= 1, "be at least 1"),
    (("position_offset", "type_vocab_size"), lambda value: value >= 0, "not be negative"),
    (RATES, lambda value: 0 <= value < 1, "lie in [0, 1)"),
    (("layer_norm_eps", "initializer_range"), lambda value: value > 0, "be positive"),
)

# Fields by which other models compute something else, and what there is here instead.
UNSERVED: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size"),
        "`VanillaConfig` and `RecurrentConfig` are for a decoder with an encoder, the others for one stack",
    ),
    (
        ("is_decoder", "is_causal", "use_bidirectional_attention"),
        "`VanillaEncoderConfig` is for a stack that sees both sides, `VanillaDecoderConfig` for one that looks back",
    ),
    (("tie_encoder_decoder",), "`tie_word_embeddings` shares the embeddings, and nothing shares layers"),
    (("pruned_heads",), "each layer has all its `num_attention_heads`"),
    (("per_layer_config", "layer_types"), "all layers are alike"),
    (("sliding_window", "attention_chunk_size"), "attention sees all positions"),
    (("rope_parameters", "rope_scaling", "rope_theta"), "`position_embedding_type` says which positions there are"),
    (("layerdrop", "encoder_layerdrop", "decoder_layerdrop"), "layers stay whole, with `dropout` behind each"),
    (("attn_logit_softcapping", "final_logit_softcapping"), "scores and logits stay as they are"),
    (("scale_attn_by_inverse_layer_idx",), "scores are divided by the root of `qk_head_dim` alone"),
)
# The values of such fields by which they change nothing.
SWITCHED_OFF: tuple[Any, ...] = (None, False, 0, (), [], {})

# Megatron-style tensor parallelism: heads and inner units are split, and summed again by `o_proj` and `linear2`.
ATTENTION_TP_PLAN = {"q_proj": "colwise", "k_proj": "colwise", "v_proj": "colwise", "o_proj": "rowwise"}
STACK_TP_PLAN = {
    **{f"layers.*.self_attention.{name}": style for name, style in ATTENTION_TP_PLAN.items()},
    "layers.*.feed_forward.linear1": "colwise",
    "layers.*.feed_forward.linear2": "rowwise",
}
# What a stage of a pipeline holds: the first one what comes before the layers, the last one what comes after them.
STACK_PP_PLAN = {
    "embed_tokens": (["input_ids"], ["inputs_embeds"]),
    "embed_token_types": (["token_type_ids"], ["hidden_states"]),
    "embed_positions": (["position_ids"], ["hidden_states"]),
    "embedding_norm": (["hidden_states"], ["hidden_states"]),
    "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
    "norm": (["hidden_states"], ["hidden_states"]),
}

FamilyConfigType = TypeVar("FamilyConfigType", bound="FamilyConfig")


@strict
class FamilyConfig(PreTrainedConfig):
    """A configuration that knows the Auto classes of its family, and refuses those of other model types.

    Args:
        output_logits (`bool`, *optional*):
            `False` spares language models their logits in training with `labels`, where only the loss is used: they
            would be most of the memory. What a call says goes before it, and evaluation has logits all the same.
    """

    # The module and class for each Auto class of the family, which `save_pretrained` writes into a checkpoint.
    family_auto_map: ClassVar[dict[str, str]] = {}
    # The same for the pipelines that transformers does not have.
    family_pipelines: ClassVar[dict[str, dict[str, Any]]] = {}
    # The values that a field may have.
    choices: ClassVar[dict[str, tuple[str, ...]]] = {}
    # The values of fields of `UNSERVED` that say what the family is.
    implied: ClassVar[dict[str, tuple[Any, ...]]] = {}

    output_logits: bool | None = None

    def __new__(cls, *args: Any, **given: Any) -> "FamilyConfig":
        """Refuse names that contradict each other while it can still be seen which were given."""
        cls.by_field(given)
        return super().__new__(cls)

    def __init_subclass__(cls, *args: Any, **kwargs: Any) -> None:
        """Compare configurations by their fields, as a dataclass does, but also where one has no such attribute."""
        super().__init_subclass__(*args, **kwargs)
        cls.__eq__ = FamilyConfig.has_fields_of  # type: ignore[method-assign, assignment]

    def has_fields_of(self, other: object) -> bool:
        """Return whether `other` is a configuration of the same class and with the same fields."""
        names = [field.name for field in dataclasses.fields(self)]
        ours, theirs = ([getattr(each, name, None) for name in names] for each in (self, other))
        return type(self) is type(other) and ours == theirs

    def __post_init__(self, **kwargs: Any) -> None:
        """Leave the checkpoint's own pipeline alone where the package is installed, which registers the same."""
        if "custom_pipelines" in kwargs and not __name__.startswith("transformers_modules."):
            own = {task: info["impl"] for task, info in self.family_pipelines.items()}
            others = {task: info for task, info in kwargs["custom_pipelines"].items() if info["impl"] != own.get(task)}
            kwargs["custom_pipelines"] = others
        super().__post_init__(**kwargs)

    @classmethod
    def fields_named(cls, name: str) -> tuple[str, ...]:
        """Return the fields that a name stands for, which may be one of the paper's: most often one, of the same name.

        Raises:
            ValueError: the paper's name is that of nothing in this family.
        """
        if name in cls.attribute_map:
            return (cls.attribute_map[name],)
        if name == "N":
            return BOTH_DEPTHS
        if name in PAPER_NAMES:
            raise ValueError(f"`{name}` is `{PAPER_NAMES[name]}`, which {cls.__name__} does not have: leave it out.")
        return (name,)

    @classmethod
    def by_field(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return `given` with the names of fields in the place of the paper's. The depth N of both stacks goes before
        that of one of them.

        Raises:
            ValueError: two names give a field different values.
        """
        found: dict[str, Any] = {}
        first: dict[str, str] = {}
        for name, value in sorted(given.items(), key=lambda item: item[0] == "N"):
            fields = cls.fields_named(name)
            is_both = len(fields) > 1
            for field in fields:
                if field in found and found[field] != value and not is_both:
                    both = f"`{first[field]}` is {found[field]!r} and `{name}` is {value!r}"
                    raise ValueError(f"{both}, but both are `{field}`: give one of them.")
                found[field], first[field] = value, name
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field by its name or by the paper's, with the checks of the field."""
        for field in self.fields_named(name):
            if field == name:
                super().__setattr__(name, value)
            else:
                setattr(self, field, value)

    @property
    def N(self) -> int:
        """The layers of each stack; an `AttributeError` if the two differ."""
        depths = [getattr(self, field) for field in BOTH_DEPTHS]
        if depths[0] != depths[1]:
            raise AttributeError(f"N is the depth of both stacks, which have {depths[0]} and {depths[1]} layers.")
        return depths[0]

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, with the pipelines of the family."""
        fields = super().to_dict()
        if pipelines := fields.pop("custom_pipelines", {}) | self.family_pipelines:
            fields["custom_pipelines"] = pipelines
        return fields

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers, with the Auto classes of the whole family and their code."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)

        def file_of(reference: str) -> Path:
            return Path(__file__).with_name(f"{reference.split('.')[0]}.py")

        pipelines = [info["impl"] for info in self.family_pipelines.values()]
        for code in {file_of(reference) for reference in (*self.family_auto_map.values(), *pipelines)}:
            for file in (code, *map(Path, get_relative_import_files(code))) if code.is_file() else ():
                shutil.copyfile(file, folder / file.name)
        # Remote code of a configuration alone has none of the models beside it.
        there = {file.name for file in folder.glob("*.py")}
        self.auto_map = {name: ref for name, ref in self.family_auto_map.items() if file_of(ref).name in there}
        super().save_pretrained(save_directory, *args, **kwargs)

    def validate_architecture(self) -> None:
        """Raise `ValueError` for values outside of their range, or that do not fit together; `@strict` calls this."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if getattr(self, "is_heterogeneous", False):
            given["per_layer_config"] = True
        self.refuse_unserved(given)
        for names, is_valid, rule in BOUNDS:
            for name in names:
                if name in given and not is_valid(given[name]):
                    raise ValueError(f"`{name}` must {rule}, got {given[name]}.")
        for name, allowed in self.choices.items():
            if name in given and given[name] not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {given[name]!r}.")

    def refuse_unserved(self, given: dict[str, Any]) -> None:
        """Raise `ValueError` for fields that would silently change nothing."""
        for names, instead in UNSERVED:
            for name in names:
                if name in given and given[name] not in self.implied.get(name, SWITCHED_OFF):
                    raise ValueError(
                        f"{type(self).__name__} has no `{name}={given[name]!r}`: {instead}. Leave it out."
                    )

    @classmethod
    def from_dict(cls: type[FamilyConfigType], config_dict: dict[str, Any], **kwargs: Any) -> FamilyConfigType:
        """Build the configuration from a dictionary; raise `ValueError` if that is of another model type, or if names
        contradict each other."""
        kwargs = cls.by_field(kwargs)
        model_type = config_dict.get("model_type") or cls.model_type
        if model_type != cls.model_type:
            raise ValueError(
                f"`model_type` is {model_type!r}, but {cls.__name__} reads {cls.model_type!r}: "
                "load this checkpoint with the Auto class of its task, or with the class of its own family."
            )
        # transformers would drop a field that the class does not have.
        unserved = {name: kwargs.pop(name) for names, _ in UNSERVED for name in names if name in kwargs}
        return super().from_dict(config_dict | unserved, **kwargs)


@strict
class VanillaBaseConfig(FamilyConfig):
    r"""The fields that all families share. Defaults are the paper's base model (Table 3).

    Args:
        vocab_size (`int`, defaults to 37000):
            Entries of the vocabulary (section 5.1: about 37,000 shared by source and target).
        hidden_size (`int`, defaults to 512):
            d_model, the width of every sub-layer's output (section 3.1).
        intermediate_size (`int`, defaults to 2048):
            d_ff, the inner width of the feed-forward networks (section 3.3).
        num_attention_heads (`int`, defaults to 8):
            h, the number of attention heads (section 3.2.2).
        qk_head_dim (`int`, *optional*):
            d_k, the width of a head's queries and keys; `hidden_size / num_attention_heads` if not given. Table 3 (B).
        v_head_dim (`int`, *optional*):
            d_v, the width of a head's values; `hidden_size / num_attention_heads` if not given.
        dropout (`float`, defaults to 0.1):
            P_drop, on each sub-layer's output before the residual sum, and on embeddings plus positions (section 5.4).
        attention_dropout (`float`, defaults to 0.0):
            Dropout on the attention weights. The paper has none; BERT, GPT-2, Marian and BART have.
        activation_dropout (`float`, defaults to 0.0):
            Dropout inside the feed-forward networks, after the activation. The paper has none; Marian and BART may.
        activation_function (`str`, defaults to `"relu"`):
            The feed-forward networks' activation: `relu` (eq. 2); BERT, BART `gelu`; GPT-2 `gelu_new`; Marian `swish`.
        position_embedding_type (`str`, defaults to `"sinusoidal"`):
            `"sinusoidal"` (section 3.5), without an upper length; `"sinusoidal_halves"`, the same with all sines
            before all cosines (Marian); or `"learned"` (Table 3 (E); BERT, GPT-2, BART).
        norm_position (`str`, defaults to `"post"`):
            Layer normalization after the residual sum (`"post"`, section 3.1) or before sub-layers (`"pre"`, GPT-2).
        final_norm (`bool`, *optional*):
            Layer normalization behind each stack (`torch.nn.Transformer`); if not given, behind pre-norm ones (GPT-2).
        embedding_norm (`bool`, defaults to `False`):
            Layer normalization of the sum of embeddings and positions (BERT, BART).
        layer_norm_eps (`float`, defaults to 1e-5):
            Added to the variance in layer normalizations. BERT 1e-12.
        scale_embedding (`bool`, defaults to `True`):
            Whether embeddings are multiplied by sqrt(d_model) (section 3.4). BERT, GPT-2 and BART do not.
        tie_word_embeddings (`bool`, defaults to `True`):
            Whether source embedding, target embedding and output projection share one matrix (section 3.4).
        initializer (`str`, defaults to `"normal"`):
            How weights start: `"normal"`, from N(0, `initializer_range`^2) (BERT, GPT-2, Marian, BART); or `"xavier"`,
            matrices by Xavier's uniform rule, embeddings from N(0, 1 / d_model) (the authors' code, tensor2tensor).
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of weights that start from a normal distribution.
        max_position_embeddings (`int`, *optional*):
            Learned positions that there are; 512 if not given. Sinusoidal positions have no limit: the attribute is
            there only if it was given, and then limits engines and tools that read it, not the model.
        position_offset (`int`, defaults to 0):
            Rows at the start of the table of learned positions that belong to none: BART and RoBERTa have 2.
        pad_token_id, bos_token_id, eos_token_id (`int`, defaults to 0, 1 and 2):
            Special tokens.

    Raises:
        ValueError: for values outside of their range, a hidden size that the heads do not divide (where a head's width
            is not given), or an odd one with sinusoidal positions.
    """

    attribute_map: ClassVar[dict[str, str]] = PAPER_NAMES
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "position_embedding_type": ("sinusoidal", "learned", "sinusoidal_halves"),
        "norm_position": ("post", "pre"),
        "initializer": ("normal", "xavier"),
        "activation_function": tuple(ACT2FN),
        "classifier_activation": tuple(ACT2FN),
    }

    vocab_size: int = 37000
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    qk_head_dim: int | None = None
    v_head_dim: int | None = None
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    activation_dropout: float | int = 0.0
    activation_function: str = "relu"
    position_embedding_type: str = "sinusoidal"
    norm_position: str = "post"
    final_norm: bool | None = None
    embedding_norm: bool = False
    layer_norm_eps: float = 1e-5
    scale_embedding: bool = True
    tie_word_embeddings: bool = True
    initializer: str = "normal"
    initializer_range: float = 0.02
    max_position_embeddings: int | None = None
    position_offset: int = 0
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        """Give learned positions a table of 512; without a limit, have no attribute that could be taken for one."""
        if self.max_position_embeddings is None and self.position_embedding_type == "learned":
            self.max_position_embeddings = 512
        elif self.max_position_embeddings is None:
            del self.max_position_embeddings
        super().__post_init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        """Give a configuration without a limit a table of 512 positions if its positions are to be learned."""
        super().__setattr__(name, value)
        is_learned = name == "position_embedding_type" and value == "learned"
        if is_learned and not hasattr(self, "max_position_embeddings"):
            self.max_position_embeddings = 512

    @property
    def head_dim(self) -> int:
        """The width of a head, for engines that lay out caches of keys and values by it. To set it sets both widths.

        Raises:
            ValueError: where d_k and d_v differ, for such an engine cannot serve the model.
        """
        default = self.hidden_size // self.num_attention_heads
        d_k, d_v = self.qk_head_dim or default, self.v_head_dim or default
        if d_k != d_v:
            raise ValueError(f"`qk_head_dim` is {d_k} and `v_head_dim` is {d_v}: there is no `head_dim` for both.")
        return d_k

    @head_dim.setter
    def head_dim(self, width: int) -> None:
        self.qk_head_dim = self.v_head_dim = width

    def validate_architecture(self) -> None:
        super().validate_architecture()
        if self.position_embedding_type == "learned" and not hasattr(self, "max_position_embeddings"):
            raise ValueError("Learned positions need `max_position_embeddings`: how many there are.")
        if None in (self.qk_head_dim, self.v_head_dim) and self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` ({self.hidden_size}) must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads}), or give both `qk_head_dim` and `v_head_dim`."
            )
        if self.position_embedding_type != "learned" and self.hidden_size % 2:
            raise ValueError(
                f"`hidden_size` must be even for sinusoidal positions, which come in pairs of sine and cosine, got "
                f'{self.hidden_size}; use an even size or `position_embedding_type="learned"`.'
            )


# The default is in the dataclass. As an attribute of the class it would be found where a configuration has none.
del VanillaBaseConfig.max_position_embeddings


@strict
class VanillaConfig(VanillaBaseConfig):
    r"""Configuration of the encoder-decoder, the paper's model. See [`VanillaBaseConfig`] for the shared fields.

    Args:
        encoder_layers, decoder_layers (`int`, default to 6):
            N, the layers of each stack (section 3.1); `N=...` sets both.
        decoder_start_token_id (`int`, defaults to 1):
            The token that starts each target ("shifted right" in figure 1).
        logits_bias (`bool`, defaults to `False`):
            Whether the output projection adds a bias: Marian's and BART's `final_logits_bias`.
        use_cache (`bool`, defaults to `True`):
            Whether the decoder returns its keys and values for the next step.

    Examples:
        >>> from hf_vanilla import VanillaConfig
        >>> config = VanillaConfig(d_model=256, h=4, N=3)
        >>> config.hidden_size, config.num_attention_heads, config.decoder_layers
        (256, 4, 3)
    """

    model_type = "vanilla"
    implied: ClassVar[dict[str, tuple[Any, ...]]] = {
        "is_encoder_decoder": (True,),
        "add_cross_attention": (True, False),
        "is_causal": (True,),
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = {**PAPER_NAMES, "num_hidden_layers": "encoder_layers"}
    base_model_tp_plan: ClassVar[dict[str, str]] = {
        **{f"{stack}.embed_tokens": "embedding_rowwise" for stack in ("encoder", "decoder")},
        **{f"{stack}.{name}": style for stack in ("encoder", "decoder") for name, style in STACK_TP_PLAN.items()},
        **{f"decoder.layers.*.cross_attention.{name}": style for name, style in ATTENTION_TP_PLAN.items()},
    }
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {
        "encoder.layers.*": "free_full_weight",
        "decoder.layers.*": "free_full_weight",
    }
    family_auto_map: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_vanilla.VanillaConfig",
        "AutoModel": "modeling_vanilla.VanillaModel",
        "AutoModelForSeq2SeqLM": "modeling_vanilla.VanillaForConditionalGeneration",
    }
    family_pipelines: ClassVar[dict[str, dict[str, Any]]] = TRANSLATION

    is_encoder_decoder: bool = True
    encoder_layers: int = 6
    decoder_layers: int = 6
    decoder_start_token_id: int | None = 1
    logits_bias: bool = False
    use_cache: bool = True


StackConfigType = TypeVar("StackConfigType", bound="StackConfig")


@strict
class StackConfig(VanillaBaseConfig):
    r"""The fields that the families of one stack share.

    Args:
        num_hidden_layers (`int`, defaults to 6):
            N, the layers of the stack (section 3.1).
        classifier_dropout (`float`, defaults to 0.1):
            Dropout before the output layer of the classification heads.
    """

    base_model_tp_plan: ClassVar[dict[str, str]] = STACK_TP_PLAN
    base_model_pp_plan: ClassVar[Any] = STACK_PP_PLAN
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {
        "embed_tokens": "free_full_weight",
        "layers.*": "free_full_weight",
    }
    # The field in which a [`VanillaConfig`] holds the depth of this stack.
    depth_in_seq2seq: ClassVar[str]

    num_hidden_layers: int = 6
    classifier_dropout: float | int = 0.1

    @classmethod
    def from_dict(cls: type[StackConfigType], config_dict: dict[str, Any], **kwargs: Any) -> StackConfigType:
        """Build the configuration from a dictionary, which may be that of an encoder-decoder ([`VanillaConfig`])."""
        if config_dict.get("model_type") == VanillaConfig.model_type:
            depth = config_dict.get(cls.depth_in_seq2seq, getattr(VanillaConfig, cls.depth_in_seq2seq))
            # What only an encoder-decoder has, or has another value for.
            others = VanillaConfig.__dataclass_fields__.keys() - cls.__dataclass_fields__.keys()
            others |= {"model_type", "is_encoder_decoder", "architectures", "auto_map", "custom_pipelines"}
            config_dict = {name: value for name, value in config_dict.items() if name not in others}
            config_dict["num_hidden_layers"] = depth
        return super().from_dict(config_dict, **kwargs)


@strict
class VanillaEncoderConfig(StackConfig):
    r"""Configuration of the encoder stack alone, the way to BERT. See [`StackConfig`] for the shared fields.

    Args:
        type_vocab_size (`int`, defaults to 0):
            Token types, whose embeddings are added to those of the tokens; none for 0. BERT has 2, RoBERTa 1.
        add_pooling_layer (`bool`, defaults to `False`):
            Whether the model without a head returns a `pooler_output`, as BERT's and RoBERTa's do.
        classifier_activation (`str`, defaults to `"tanh"`):
            Activation inside the heads that classify a text: BERT and RoBERTa `tanh`, DistilBERT `relu`.
    """

    model_type = "vanilla_encoder"
    implied: ClassVar[dict[str, tuple[Any, ...]]] = {"use_bidirectional_attention": (True,)}
    base_model_pp_plan: ClassVar[Any] = STACK_PP_PLAN | {"pooler": (["hidden_states"], ["pooler_output"])}
    depth_in_seq2seq: ClassVar[str] = "encoder_layers"
    attribute_map: ClassVar[dict[str, str]] = STACK_NAMES | {"encoder_layers": "num_hidden_layers"}
    family_auto_map: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_vanilla.VanillaEncoderConfig",
        "AutoModel": "modeling_vanilla_encoder.VanillaEncoderModel",
        "AutoModelForMaskedLM": "modeling_vanilla_encoder.VanillaEncoderForMaskedLM",
        "AutoModelForSequenceClassification": "modeling_vanilla_encoder.VanillaEncoderForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_vanilla_encoder.VanillaEncoderForTokenClassification",
        "AutoModelForQuestionAnswering": "modeling_vanilla_encoder.VanillaEncoderForQuestionAnswering",
        "AutoModelForMultipleChoice": "modeling_vanilla_encoder.VanillaEncoderForMultipleChoice",
    }

    type_vocab_size: int = 0
    add_pooling_layer: bool = False
    classifier_activation: str = "tanh"


@strict
class VanillaDecoderConfig(StackConfig):
    r"""Configuration of the decoder stack alone, the way to GPT. See [`StackConfig`] for the shared fields.

    Args:
        use_cache (`bool`, defaults to `True`):
            Whether the model returns its keys and values for the next step.
    """

    model_type = "vanilla_decoder"
    implied: ClassVar[dict[str, tuple[Any, ...]]] = {"is_decoder": (True, False), "is_causal": (True,)}
    depth_in_seq2seq: ClassVar[str] = "decoder_layers"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]
    attribute_map: ClassVar[dict[str, str]] = STACK_NAMES | {"decoder_layers": "num_hidden_layers"}
    family_auto_map: ClassVar[dict[str, str]] = {
        "AutoConfig": "configuration_vanilla.VanillaDecoderConfig",
        "AutoModel": "modeling_vanilla_decoder.VanillaDecoderModel",
        "AutoModelForCausalLM": "modeling_vanilla_decoder.VanillaDecoderForCausalLM",
        "AutoModelForSequenceClassification": "modeling_vanilla_decoder.VanillaDecoderForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_vanilla_decoder.VanillaDecoderForTokenClassification",
    }

    use_cache: bool = True


__all__ = ["VanillaConfig", "VanillaDecoderConfig", "VanillaEncoderConfig"]
