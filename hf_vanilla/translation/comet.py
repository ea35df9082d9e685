"""COMET (Rei et al., 2020), where it is installed and its checkpoint lies on this machine: nothing is downloaded."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sacrebleu.metrics.base import Metric, Score, Signature


class CometSignature(Signature):
    """Which checkpoint judged, and the version of the package that ran it."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self._abbr |= {"model": "m"}
        self.info |= {"model": args["name"], "version": args["package_version"]}


class Comet(Metric):
    """The mean of COMET's scores of sentences; of several references, the one with the best score counts.

    Args:
        path: a checkpoint's folder, which holds `hparams.yaml` and `checkpoints/model.ckpt`, or that last file.
        sources: the source of each sentence.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ImportError: the package `unbabel-comet` is not installed.
        ValueError: the checkpoint cannot be loaded, or needs a file that is not here.
    """

    _SIGNATURE_TYPE = CometSignature

    def __init__(self, path: str | Path, sources: Sequence[str]) -> None:
        super().__init__()
        file = checkpoint_of(path)
        try:
            import comet
        except ImportError:
            raise ImportError("COMET needs a package that is not installed: pip install unbabel-comet") from None
        load = comet.load_from_checkpoint
        # Without this option, which versions before 2.2.5 lack, it would fetch the encoder's tokenizer.
        if "local_files_only" not in inspect.signature(load).parameters:
            raise ValueError("this version of COMET may download files: pip install --upgrade unbabel-comet")
        try:
            self.model = load(str(file), local_files_only=True)
        except Exception as error:  # that package raises bare exceptions
            raise ValueError(f"{file}: COMET cannot load it: {error}") from error
        self.sources, self.package_version = list(sources), getattr(comet, "__version__", "unknown")
        self.name = (file.parents[1] if file.parent.name == "checkpoints" else file).name
        self.known: dict[tuple[str, str, str], float] = {}  # significance asks again for what was scored

    def of(self, rows: Sequence[int]) -> "Comet":
        """Return the same metric for some of the sentences."""
        part = copy.copy(self)
        part.sources = [self.sources[row] for row in rows]
        return part

    def _extract_corpus_statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]] | None
    ) -> list[list[float]]:
        streams = references or []
        self.num_refs = len(streams)
        rows = [list(zip(self.sources, hypotheses, stream, strict=True)) for stream in streams]
        new = [row for row in dict.fromkeys(row for stream in rows for row in stream) if row not in self.known]
        if new:
            asked = [dict(zip(("src", "mt", "ref"), row, strict=True)) for row in new]
            output = self.model.predict(asked, batch_size=8, gpus=int(torch.cuda.is_available()), progress_bar=False)
            self.known |= zip(new, map(float, output["scores"]), strict=True)
        return [[max(map(self.known.__getitem__, of_sentence)), 1.0] for of_sentence in zip(*rows, strict=True)]

    def _aggregate_and_compute(self, stats: Sequence[Sequence[float]]) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])

    def _compute_score_from_stats(self, stats: Sequence[float]) -> Score:
        return Score("COMET", float(stats[0]) / float(stats[1]))

    def _preprocess_segment(self, sent: str) -> str:
        raise NotImplementedError("COMET scores all sentences together")

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        raise NotImplementedError("COMET scores all sentences together")

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: Mapping[str, Any]) -> list[float]:
        raise NotImplementedError("COMET scores all sentences together")


def checkpoint_of(path: str | Path) -> Path:
    """Return the file of a checkpoint, given it or its folder; `FileNotFoundError` if it is not there."""
    path = Path(path).expanduser()
    file = path / "checkpoints" / "model.ckpt" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{path}: no checkpoint of COMET; expected its folder or its model.ckpt")
    return file
