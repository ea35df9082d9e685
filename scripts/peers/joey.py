"""JoeyNMT's Transformer (PyPI: joeynmt), as a model of transformers: Trainer trains it, and our search decodes it.

Layers, attention and start are JoeyNMT's. Its own program is not used: it has no clock, and makes batches of its own.
It pins versions that fit no other library; without them it runs too:

    pip install --no-deps joeynmt tensorboard "importlib_metadata<9" zipp sacremoses subword-nmt sentencepiece
"""

from typing import Any

from joeynmt.model import build_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.marian.modeling_marian import shift_tokens_right


class JoeyConfig(PreTrainedConfig):
    """The fields of a JoeyNMT model that a comparison sets; `layer_norm` is "pre" or "post"."""

    model_type = "joey"
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    vocab_size: int = 4000
    hidden_size: int = 256
    ff_size: int = 1024
    num_heads: int = 4
    num_hidden_layers: int = 2
    num_decoder_layers: int = 2
    dropout: float = 0.1
    layer_norm: str = "pre"


class Vocabulary:
    """What JoeyNMT's model asks of a vocabulary: its size, and which tokens are special."""

    sep_index = unk_index = None
    specials: tuple[int, ...] = ()
    lang_tags: tuple[int, ...] = ()

    def __init__(self, config: JoeyConfig) -> None:
        self.size, self.pad_index = config.vocab_size, config.pad_token_id
        self.bos_index, self.eos_index = config.bos_token_id, config.eos_token_id

    def __len__(self) -> int:
        return self.size


class JoeyEncoder(nn.Module):
    """Embeddings and encoder, as `generate` calls them."""

    main_input_name = "input_ids"

    def __init__(self, src_embed: nn.Module, encoder: nn.Module) -> None:
        super().__init__()
        self.src_embed, self.encoder = src_embed, encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **_: object) -> BaseModelOutput:
        """Encode ids (batch, length); the mask is 1 where there is a token."""
        states, _ = self.encoder(self.src_embed(input_ids), None, attention_mask.bool().unsqueeze(1))
        return BaseModelOutput(last_hidden_state=states)


class JoeyForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """JoeyNMT's encoder and decoder, with one matrix for both embeddings and the output, as ours and Marian."""

    config_class = JoeyConfig
    main_input_name = "input_ids"
    _tied_weights_keys = {
        "decoder.output_layer.weight": "encoder.src_embed.lut.weight",
        "trg_embed.lut.weight": "encoder.src_embed.lut.weight",
    }

    def __init__(self, config: JoeyConfig) -> None:
        super().__init__(config)
        stack = {"type": "transformer", "num_heads": config.num_heads, "hidden_size": config.hidden_size}
        stack |= {"ff_size": config.ff_size, "dropout": config.dropout, "layer_norm": config.layer_norm}
        stack["embeddings"] = {"embedding_dim": config.hidden_size, "scale": True}
        depths = {"encoder": config.num_hidden_layers, "decoder": config.num_decoder_layers}
        fields: dict[str, Any] = {name: stack | {"num_layers": depth} for name, depth in depths.items()}
        vocabulary: Any = Vocabulary(config)
        model = build_model(fields | {"tied_embeddings": True, "tied_softmax": True}, vocabulary, vocabulary)
        self.encoder = JoeyEncoder(model.src_embed, model.encoder)
        self.decoder, self.trg_embed = model.decoder, model.trg_embed
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Leave the start that JoeyNMT gave."""

    def get_encoder(self, *_: object, **__: object) -> nn.Module:
        return self.encoder

    def get_input_embeddings(self) -> nn.Module:
        return self.encoder.src_embed.lut

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Return labels (batch, length) one place later, behind the start."""
        return shift_tokens_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **_: object,
    ) -> Seq2SeqLMOutput:
        """Return logits (batch, target length, vocabulary) for ids and mask of the source (batch, source length) or
        what its encoder made of them, and ids of the target (batch, target length), whose padding stands last."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        logits, *_ = self.decoder(
            trg_embed=self.trg_embed(decoder_input_ids),
            encoder_output=encoder_outputs[0],
            encoder_hidden=None,
            src_mask=attention_mask.bool().unsqueeze(1),
            unroll_steps=None,
            hidden=None,
            trg_mask=decoder_input_ids.new_ones(1, 1, 1).bool(),
        )
        return Seq2SeqLMOutput(logits=logits, encoder_last_hidden_state=encoder_outputs[0])


AutoConfig.register("joey", JoeyConfig)
AutoModelForSeq2SeqLM.register(JoeyConfig, JoeyForConditionalGeneration)
