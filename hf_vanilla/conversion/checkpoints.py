"""Checkpoints as a conversion reads and writes them, and the plan by which it does so, one tensor at a time."""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel

from hf_vanilla.conversion.formats import HIDDEN_DIMENSION
from hf_vanilla.models.texts_vanilla import read_special_tokens

Config = TypeVar("Config", bound=PreTrainedConfig)
logger = logging.getLogger(__name__)

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Those that are converted, by the names that safetensors has for them."""
PICKLE = (
    "a pickle can run code when it is read, so it is not. Where you trust it, load it with the class of its task and "
    "save it again, as in AutoModelForSeq2SeqLM.from_pretrained(NAME).save_pretrained(FOLDER): that writes safetensors"
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "source.spm")
SENTENCE_FILES = ("config_sentence_transformers.json", "sentence_bert_config.json", "modules.json")


class Weights:
    """Tensors by name, in memory or in safetensors files, which are read when a tensor is asked for.

    `shapes`, `dtypes` and `files` are known before that; a dtype that is not in `DTYPES` is None.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None, files: Sequence[Path] = ()):
        self.tensors = tensors or {}
        self.files: dict[str, Path] = {}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        self.dtypes: dict[str, torch.dtype | None] = {name: tensor.dtype for name, tensor in self.tensors.items()}
        for file in files:
            try:
                with safe_open(file, "pt") as opened:
                    for name in opened.keys():
                        tensor, self.files[name] = opened.get_slice(name), file
                        self.shapes[name] = tuple(tensor.get_shape())
                        self.dtypes[name] = DTYPES.get(tensor.get_dtype())
            except SafetensorError as error:
                raise ValueError(f"{file} is no whole safetensors file: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor. Of one from a file only the pages that were read take memory, until it is let go."""
        if name in self.tensors:
            return self.tensors[name]
        with safe_open(self.files[name], "pt") as opened:
            return opened.get_tensor(name)


class Checkpoint(NamedTuple):
    """A model of transformers or of ours, in memory or in a folder."""

    config: PreTrainedConfig
    weights: Weights
    class_names: list[str]
    generation_config: GenerationConfig | None


def open_checkpoint(source: str | Path | PreTrainedModel) -> Checkpoint:
    """Return what `source`, a model or the folder or Hub id of one, holds; no weight is read yet."""
    if isinstance(source, PreTrainedModel):
        names, generation = (
            [each.__name__ for each in type(source).__mro__],
            getattr(source, "generation_config", None),
        )
        return Checkpoint(source.config, Weights(source.state_dict()), names, generation)
    folder = local_folder(source)
    names = read_config(folder).get("architectures") or []
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if (folder / "generation_config.json").is_file():
        return Checkpoint(config, open_weights(folder), names, GenerationConfig.from_pretrained(folder))
    return Checkpoint(config, open_weights(folder), names, GenerationConfig.from_model_config(config))


def local_folder(source: str | Path) -> Path:
    """Return the folder of a checkpoint; if `source` is a Hub id, after the download of all but foreign formats."""
    if Path(source).is_dir():
        return Path(source)
    patterns = ["*.json", "*.txt", "*.model", "*.spm", "*.jinja", "model*.safetensors", "*_*/model.safetensors"]
    try:
        return Path(snapshot_download(str(source), allow_patterns=patterns, ignore_patterns=["onnx/*", "openvino/*"]))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(f"{source}: no such folder, and no model on the Hub that can be reached") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of a folder's `config.json`, or raise an error of one line if it is none of a model."""
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; a checkpoint has a config.json beside its weights")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(f"{file} has no `model_type`, which says what the model is")
    return config


def open_weights(path: Path) -> Weights:
    """Return the weights of a safetensors file, or of a folder with one or with several and their index.

    Raises:
        FileNotFoundError, ValueError: a file is missing, the checkpoint is a pickle, or it is damaged.
    """
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(f"{path}: not a safetensors file, and {PICKLE}")
    for file in (path, path / "model.safetensors"):
        if file.is_file():
            return Weights(files=[file])
    if (index := path / "model.safetensors.index.json").is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of weights: {error!r}") from error
        for name in names:
            if not (path / name).is_file():
                raise FileNotFoundError(f"{path / name}: no such file, but {index.name} names it")
        return Weights(files=[path / name for name in names])
    for pickle in (file for ending in ("bin", "pt", "ckpt", "h5") for file in path.glob(f"*.{ending}")):
        raise ValueError(f"{pickle}: {PICKLE}")
    missing = f"{path / 'model.safetensors'}: no such file, nor an index of several"
    raise FileNotFoundError(f"{missing}. If there is a pytorch_model.bin alone: {PICKLE}")


def copy_companions(source: Path, folder: Path) -> list[str]:
    """Write a checkpoint's tokenizer, and its modules for sentence-transformers, into `folder`; return what it had."""
    copied = []
    if any((source / name).is_file() for name in TOKENIZER_FILES):
        try:
            read_special_tokens(AutoTokenizer.from_pretrained(source, trust_remote_code=False)).save_pretrained(folder)
        except Exception as error:  # tokenizers have errors of many kinds for files that are not theirs
            reason = f"its tokenizer cannot be loaded: {' '.join(str(error).split())}"
            raise ValueError(f"{source}: {reason}; install what it needs, or leave its files out") from error
        copied.append("its tokenizer")
    if (modules := source / "modules.json").is_file():
        names = list(SENTENCE_FILES)
        for path in filter(None, (module.get("path") for module in json.loads(modules.read_text(encoding="utf-8")))):
            pickle = source / path / "pytorch_model.bin"
            if not (source / path).resolve().is_relative_to(source.resolve()):
                raise ValueError(f"{modules}: {path!r} leads out of the folder")
            if pickle.exists() and not pickle.with_name("model.safetensors").exists():
                raise ValueError(f"{pickle}: {PICKLE}")
            (folder / path).mkdir(parents=True, exist_ok=True)
            names += [f"{path}/config.json", f"{path}/model.safetensors"]
        for name in names:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        copied.append("modules for sentence-transformers")
    return copied


def skeleton_of(model_class: type[PreTrainedModel], config: PreTrainedConfig, **options: bool) -> PreTrainedModel:
    """Return a model on the meta device: it has names and shapes of weights, and takes no memory for them."""
    with torch.device("meta"), quiet():
        return model_class(config, **options)


def make_config(config_class: type[Config], fields: dict[str, Any]) -> Config:
    """Return a configuration of ours, or raise `ValueError` with one line about a value that it does not allow."""
    try:
        return config_class(**fields)
    except StrictDataclassError as error:
        raise ValueError(str(error.__cause__ or error)) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers logs below errors, and its progress bars."""
    logs = transformers.utils.logging
    level, has_bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if has_bars:
            logs.enable_progress_bar()


@dataclass(frozen=True)
class Step:
    """A source becomes a target, or, where theirs fuse q, k and v, one three or three one. Without sources: zeros."""

    sources: list[str]
    targets: list[str]
    transposed: bool = False


# transformers' `WeightConverter` does not serve here: what runs it takes and gives the state dicts of whole models, so
# memory would not be that of one tensor, and its operations cut off gradients, which the tests compare through a plan.
@dataclass
class Plan:
    """All that a conversion does: by `steps`, weights of `source` become those of the model that `skeleton` outlines.

    Attributes:
        options: further arguments of the model's class.
        left_behind: names of the source's weights that have no counterpart.
        order: the source's hidden units in the order that the target has them, if it is another.
        new: targets that the source has nothing for, which are initialised.
    """

    source: Weights
    steps: list[Step]
    skeleton: PreTrainedModel
    options: dict[str, Any] = field(default_factory=dict)
    left_behind: list[str] = field(default_factory=list)
    order: Tensor | None = None
    new: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.skeleton.state_dict().items()}
        found = {self.source.dtypes[name] for step in self.steps for name in step.sources}
        if strange := found - set(DTYPES.values()):
            raise ValueError(f"weights must be floating-point numbers, got {', '.join(map(str, strange))}")
        self.dtype = (found.pop() if len(found) == 1 else None) or torch.float32

    def dtype_of(self, step: Step) -> torch.dtype:
        return (self.source.dtypes[step.sources[0]] if step.sources else None) or self.dtype

    def run(self, step: Step) -> Iterator[tuple[str, Tensor]]:
        """Yield each target of a step with its tensor, which may be a view of a source."""
        if not step.sources:
            yield from ((name, torch.zeros(self.shapes[name], dtype=self.dtype)) for name in step.targets)
            return
        parts = [self.reorder(name, self.source[name]) for name in step.sources]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        whole = whole.mT if step.transposed else whole
        for name, tensor in zip(step.targets, whole.chunk(len(step.targets)), strict=True):
            yield name, tensor.reshape(self.shapes[name]).to(self.dtype_of(step))

    def reorder(self, name: str, tensor: Tensor) -> Tensor:
        axis = next((axis for pattern, axis in HIDDEN_DIMENSION if pattern.fullmatch(name)), None)
        if self.order is None or axis is None:
            return tensor
        return tensor.index_select(axis, self.order.to(tensor.device))

    def tensors(self) -> dict[str, Tensor]:
        """Return all targets. They share no memory with the sources, but gradients flow back to these."""
        form = torch.contiguous_format
        return {name: each.clone(memory_format=form) for step in self.steps for name, each in self.run(step)}

    def warn_of_losses(self) -> None:
        """Log which weights the conversion loses, and which it makes new."""
        if self.left_behind:
            logger.warning("left behind, for no class of ours has it: %s", ", ".join(self.left_behind))
        if self.new:
            logger.warning("new, for the source does not have it: %s", ", ".join(self.new))

    def model(self) -> PreTrainedModel:
        """Return the converted model, in evaluation mode."""
        self.warn_of_losses()
        with quiet():  # it would list what is `new`
            model = type(self.skeleton).from_pretrained(
                None, config=self.skeleton.config, state_dict=self.tensors(), dtype=self.dtype, **self.options
            )
        if model.can_generate():
            model.generation_config = self.skeleton.generation_config
        model.config._name_or_path = ""  # transformers has made it "None"
        return model

    def write(self, folder: Path) -> None:
        """Write the model as `save_pretrained` does, in as many shards as the source has, a tensor at a time."""
        self.warn_of_losses()
        with quiet():
            nn.Module.to(self.skeleton, self.dtype)
            self.skeleton.save_pretrained(folder, state_dict={})
        for file in folder.glob("*.safetensors"):
            file.unlink()
        first = next(self.source.files[name] for step in self.steps for name in step.sources)
        shards: dict[Path, list[Step]] = {}
        for step in self.steps:
            shards.setdefault(self.source.files[step.sources[0]] if step.sources else first, []).append(step)
        weight_map: dict[str, str] = {}
        size = 0
        with tqdm(total=len(self.steps), desc="converting", unit=" weights", delay=2, mininterval=1) as bar:
            for number, steps in enumerate(shards.values(), 1):
                part = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
                size += self.write_shard(folder / (name := f"model{part}.safetensors"), steps, bar)
                weight_map |= {target: name for step in steps for target in step.targets}
        if len(shards) > 1:
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def write_shard(self, file: Path, steps: list[Step], bar: "tqdm[Any]") -> int:
        """Write the targets of `steps` into a safetensors file; return the number of their bytes.

        The header is written by hand, from shapes alone, for safetensors' own functions need all tensors in memory.
        """
        codes = {dtype: code for code, dtype in DTYPES.items()}
        header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
        end = 0
        for step in steps:
            dtype = self.dtype_of(step)
            for name in step.targets:
                start, end = end, end + torch.Size(self.shapes[name]).numel() * dtype.itemsize
                header[name] = {"dtype": codes[dtype], "shape": self.shapes[name], "data_offsets": [start, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for step in steps:
                for _, tensor in self.run(step):
                    stream.write(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
                bar.update()
        return end


def check_weights(owner: str, weights: Weights, expected: Mapping[str, Sequence[int]], extra: Sequence[str]) -> None:
    """Raise `ValueError`, with up to five names each, if weights are missing, `extra`, or not of `expected` shapes."""
    missing = [name for name in expected if name not in weights.shapes]
    shapes = [(name, list(weights.shapes.get(name, shape)), list(shape)) for name, shape in expected.items()]
    wrong = [f"{name} {shape}, expected {right}" for name, shape, right in shapes if shape != right]
    problems = [
        f"{what}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        for what, names in {"missing": missing, "too many": extra, "of another shape": wrong}.items()
        if names
    ]
    if problems:
        raise ValueError(f"the weights are not those of a {owner} with this configuration; {'; '.join(problems)}")
