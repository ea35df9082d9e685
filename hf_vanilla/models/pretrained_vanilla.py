"""Loading and saving, alike for the models of all families: nothing here belongs to one architecture."""

import dataclasses
import inspect
import shutil
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import WeightTransform

from .configuration_vanilla import FamilyConfig, StackConfig, VanillaConfig, VanillaDecoderConfig, VanillaEncoderConfig
from .generation_vanilla import beam_search

if TYPE_CHECKING:
    # Nothing here needs it: what a model's file imports relatively travels with the model.
    from .pipeline_vanilla import TranslationPipeline as TranslationPipeline

# The arguments of `from_pretrained` that say where a checkpoint is found.
HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
# The families of one stack, by the name that a head's attribute and its checkpoint have for the stack.
STACK_CONFIGS: dict[str, type[StackConfig]] = {"encoder": VanillaEncoderConfig, "decoder": VanillaDecoderConfig}

ModelType = TypeVar("ModelType", bound="FamilyPreTrainedModel")


# trf-ignore: TRF013 (each model calls `post_init` once its modules are there)
class FamilyPreTrainedModel(PreTrainedModel):
    """Loads and saves models of all families."""

    config: FamilyConfig
    base_model_prefix = "model"
    _skip_keys_device_placement = ["past_key_values"]
    _weight_conversions: list[WeightTransform]
    # The module of this head that takes the weights of a pooler.
    _pooler: str | None = None

    def __init__(self, config: FamilyConfig, *args: Any, **kwargs: Any):
        # Fields may have been set since the configuration was made, by `from_pretrained(..., field=value)` for one.
        config.validate_architecture()
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls: type[ModelType], pretrained_model_name_or_path: str | PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> ModelType:
        """As in transformers, but a single-stack model also takes its stack out of a seq2seq checkpoint, and a head
        that classifies texts the pooler of a checkpoint without a head.

        Raises:
            OSError: for a folder that holds only a pickle, which may run code, unless `use_safetensors=False`.
        """
        folder = Path(str(pretrained_model_name_or_path))
        is_pickle = any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors"))
        if kwargs.setdefault("use_safetensors", True) and is_pickle:
            raise OSError(f"{folder}: its weights are a pickle, which may run code; use_safetensors=False loads it")
        is_stack = cls.base_model_prefix in STACK_CONFIGS
        if is_stack and pretrained_model_name_or_path is not None:
            kwargs = arguments_for_stack(cls, pretrained_model_name_or_path, kwargs)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if is_stack and "key_mapping" in kwargs:
            # transformers would rename back what it saves; this model is one of its own family from now on.
            (loaded[0] if isinstance(loaded, tuple) else loaded)._weight_conversions = []
        return loaded

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As in transformers, with the paper's beam search; the configuration adds the code of the whole family."""
        if self.can_generate() and kwargs.get("is_main_process", True):
            code = Path(save_directory, "custom_generate", "generate.py")
            code.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(inspect.getfile(inspect.unwrap(beam_search)), code)
        super().save_pretrained(save_directory, *args, **kwargs)


def arguments_for_stack(
    cls: type[FamilyPreTrainedModel], checkpoint: str | PathLike[str], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the arguments with which transformers loads a single-stack model from `checkpoint`, which may be of the
    seq2seq family, and may have a pooler."""
    hub_kwargs = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
    fields = PreTrainedConfig.get_config_dict(checkpoint, **hub_kwargs)[0]
    if fields.get("model_type") != VanillaConfig.model_type:
        if fields.get("add_pooling_layer") and cls._pooler is not None:
            kwargs.setdefault("key_mapping", {r"^pooler\.": f"{cls._pooler}."})
        return kwargs
    stack = cls.base_model_prefix
    if "config" not in kwargs:
        dtypes: dict[str, Any] = {name: kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs}
        config, kwargs = STACK_CONFIGS[stack].from_dict(fields, return_unused_kwargs=True, **kwargs)
        kwargs |= {"config": config, **dtypes}
    key_mapping = {rf"^model\.{stack}\.": f"{stack}."}
    if stack == "encoder":
        # What projects to the target's vocabulary belongs to the decoder, which is left behind.
        key_mapping["^lm_head"] = "decoder.lm_head"
    elif fields.get("tie_word_embeddings", True):
        # The shared matrix is stored once, under the encoder's name.
        names = (r"^model\.encoder\.embed_tokens", r"^encoder\.embed_tokens")
        key_mapping |= dict.fromkeys(names, "decoder.embed_tokens")
    return {**kwargs, "key_mapping": key_mapping}


class EncoderDecoderPreTrainedModel(FamilyPreTrainedModel):
    """What models of an encoder and a decoder share, whatever these are made of."""

    def _resize_token_embeddings(self, new_num_tokens: int, *args: Any, **kwargs: Any) -> nn.Embedding:
        """Resize the decoder's embeddings, too, if they are its own."""
        if not self.config.tie_word_embeddings:
            decoder = self.get_decoder()
            resized = decoder._get_resized_embeddings(decoder.embed_tokens, new_num_tokens, *args, **kwargs)
            resized.requires_grad_(decoder.embed_tokens.weight.requires_grad)
            decoder.set_input_embeddings(resized)
        return super()._resize_token_embeddings(new_num_tokens, *args, **kwargs)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls: type[ModelType],
        encoder: str | PathLike[str],
        decoder: str | PathLike[str] | None = None,
        trust_remote_code: bool | None = None,
        **kwargs: Any,
    ) -> ModelType:
        """Return a model of the paper's family whose stacks start from encoder-only and decoder-only checkpoints.

        The cross-attention is new. The two embeddings and the output projection, which is the decoder's, stay apart
        (`tie_word_embeddings=False`). The first of an encoder's token types becomes part of its embeddings.

        Args:
            encoder: folder or Hub id of a checkpoint of the encoder family.
            decoder: folder or Hub id of one of the decoder family; a new stack, as deep as the encoder, if not given.
            trust_remote_code: whether to run the checkpoints' own code where `hf_vanilla` is not installed.
            kwargs: fields of [`VanillaConfig`] to set, such as `decoder_start_token_id`.

        Raises:
            ValueError: in a recurrent model, whose stacks have no checkpoints of their own; and where the two differ
                in a field that a seq2seq model has but once, unless `kwargs` set it.
        """
        if cls.config_class is not VanillaConfig:
            raise ValueError(f"{cls.__name__} has no families of one stack to start from: use `from_pretrained`.")
        # Each with the configuration of its own family, for a checkpoint may also be of the seq2seq family.
        config: StackConfig = VanillaEncoderConfig.from_pretrained(encoder)
        source = AutoModel.from_pretrained(encoder, config=config, trust_remote_code=trust_remote_code)
        target = source
        if decoder is not None:
            config = VanillaDecoderConfig.from_pretrained(decoder)
            target = AutoModelForCausalLM.from_pretrained(decoder, config=config, trust_remote_code=trust_remote_code)
        families = (VanillaConfig, StackConfig, PreTrainedConfig)
        seq2seq, stack, other = ({field.name for field in dataclasses.fields(family)} for family in families)
        kwargs = VanillaConfig.by_field(kwargs)
        names = (seq2seq & stack) - other - {"tie_word_embeddings", *kwargs}
        for name in sorted(names):
            ours, theirs = (getattr(each.config, name, None) for each in (source, target))
            if ours != theirs:
                raise ValueError(
                    f"`{name}` is {ours!r} in the encoder's checkpoint and {theirs!r} in the decoder's, but a seq2seq "
                    f"model has one: give `{name}`, or checkpoints that agree."
                )
        depths = {"encoder_layers": source.config.num_hidden_layers, "decoder_layers": target.config.num_hidden_layers}
        shared = {name: getattr(target.config, name, None) for name in names}
        model = cls(VanillaConfig(**{**shared, **depths, "tie_word_embeddings": False, **kwargs}))
        weights = {name: weight for name, weight in source.state_dict().items() if not name.startswith("pooler.")}
        if (types := weights.pop("embed_token_types.weight", None)) is not None:
            weights["embed_tokens.weight"] = weights["embed_tokens.weight"] + types[0] / source.embedding_scale
        model.get_encoder().load_state_dict(weights)
        if decoder is not None:
            model.get_decoder().load_state_dict(target.decoder.state_dict(), strict=False)
            if (projection := model.get_output_embeddings()) is not None:
                projection.load_state_dict(target.lm_head.state_dict(), strict=not model.config.logits_bias)
        return model.eval()
