"""Configurations: files and command lines that are read, and those that are refused."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_vanilla
from hf_vanilla.training.config import CONFIGURATION_CLASSES, TrainingConfig
from hf_vanilla.training.model_fields import model_fields, paper_names
from hf_vanilla.training.yaml_files import parse_yaml, write_yaml


def test_configuration_comes_from_a_file_and_the_command_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 3e-4\nmax_steps: 7\nnorm_position: pre\nmax_grad_norm: null\ntrackers: [wandb]\n")
    config = TrainingConfig.load(path, ["--seed", "5", "--max-steps", "9"])
    assert (config.learning_rate, config.max_steps, config.seed, config.norm_position) == (3e-4, 9, 5, "pre")
    assert config.max_grad_norm is None and config.hidden_size == 512 and config.trackers == ["wandb"]


def test_labels_are_smoothed_for_translation_only():
    assert TrainingConfig(max_steps=1).label_smoothing == 0.1
    assert TrainingConfig(max_steps=1, task="causal_lm", corpus="bible").label_smoothing == 0.0


@pytest.mark.parametrize(
    "content, message",
    [
        ("lerning_rate: 1", "unknown field 'lerning_rate'; did you mean 'learning_rate'"),
        ("zzz: 1", "run.yaml, line 1: unknown field 'zzz'; `hf-vanilla train --help` explains the fields"),
        ("seed: 1\nmax_step: 1", "line 2: unknown field 'max_step'; did you mean 'max_steps'"),
        ("seed: 1\nmax_steps: -1", "run.yaml, line 2: max_steps is -1; expected a positive number"),
        ("seed: 1\n\nmax_steps: many", "run.yaml, line 3: .*invalid int value: 'many'"),
        (
            "d_model: 64\nhidden_size: 32\nmax_steps: 1",
            "d_model is 64 and hidden_size is 32, but both are hidden_size",
        ),
        ("max_steps: 1\nh: 3\nmax_steps: 2", 'run.yaml, line 3: not YAML: found duplicate key "max_steps"'),
        ("max_steps: 1\ncorpus:\nseed: 1", "run.yaml, line 2: corpus is blank; give a value, or leave the line out"),
        ("max_steps: 1\ncorpus: ''", "run.yaml, line 2: corpus is blank"),
        ("max_steps: 1\ncompile: perhaps", "line 2: .*expected true or false"),
        ("a: 1\n\tb: 2", "run.yaml, line 2: not YAML"),
        ("a: 1\n---\nb: 2", "run.yaml, line 2: not YAML"),
        ("label_smoothing: 1.0\nmax_steps: 1", r"label_smoothing is 1.0; expected a number in \[0, 1\)"),
        ("seed: 1", "max_steps is None; expected a limit here or in train_minutes"),
        ("task: masked", "invalid choice: 'masked'"),
        ("seed: {a: 1}", "seed is {'a': 1}; expected a value"),
        ("- a list", "expected lines of the form `field: value`"),
        ("a: [", "not YAML"),
    ],
)
def test_a_bad_configuration_is_refused_by_field(tmp_path, content, message):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as raised:
        TrainingConfig.load(path)
    assert "\n" not in str(raised.value)


def test_paths_may_begin_with_the_home_folder_and_columns_have_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "run.yaml"
    path.write_text(
        "corpus: ~/a.csv\noutput_dir: ~/runs/a\ncolumns: [source, target]\nmax_steps: 1\n", encoding="utf-8"
    )
    config = TrainingConfig.load(path)
    assert (config.corpus, config.output_dir) == ("/home/me/a.csv", "/home/me/runs/a")
    assert config.columns == ["source", "target"]
    assert TrainingConfig.load(path, ["--columns", "en,de", "--tokenizer", "~/t"]).columns == ["en,de"]
    for target in ("source", "target,source"):
        with pytest.raises(ValueError, match="target_column is .*; expected another column than source_column"):
            TrainingConfig.load(path, ["--target_column", target])


def test_values_are_those_of_yaml_1_2(tmp_path):
    path = tmp_path / "run.yaml"
    lines = [
        "max_steps: 0o17",
        "mixed_precision: no",
        "learning_rate: 1e-3",
        "tokenizer: Null",
        "seed: ~",
        "corpus: on",
    ]
    lines += ["target_path: NULL", "output_dir: 'null'", "trackers: []", "compile: yes", "text_column: 007"]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    config = TrainingConfig.load(path)
    assert (config.max_steps, config.mixed_precision, config.learning_rate) == (15, "no", 0.001)
    assert (config.tokenizer, config.target_path, config.seed, config.trackers) == (None, None, 1, [])
    assert (config.corpus, config.output_dir, config.compile, config.text_column) == ("on", "null", True, "007")


def test_what_is_not_utf_8_is_named_by_line(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"max_steps: 1\ncorpus: caf\xe9.tsv\n")
    with pytest.raises(ValueError, match="run.yaml, line 2: not UTF-8"):
        TrainingConfig.load(path)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--seed", "two"], "after .*run.yaml, on the command line: .*invalid int value: 'two'"),
        (["--max_steps", "-3"], "after .*run.yaml, on the command line: max_steps is -3"),
        (["--d_model", "7"], None),
        (["--warmup-steps=-1"], "on the command line: warmup_steps is -1"),
        (["5"], "on the command line: unrecognized arguments: 5"),
        (["--seed", "2", "--schedule", "noam"], "run.yaml, line 2: warmup_steps is 0; expected a positive number"),
    ],
)
def test_who_is_wrong_is_blamed_the_file_or_the_command_line(tmp_path, options, message):
    path = tmp_path / "run.yaml"
    path.write_text("max_steps: 1\nwarmup_steps: 0\nschedule: constant\nseed: 3\n")
    if message is None:
        assert TrainingConfig.load(path, options).hidden_size == 7
    else:
        with pytest.raises(ValueError, match=message):
            TrainingConfig.load(path, options)


@settings(max_examples=100, deadline=None)
@given(
    values=st.dictionaries(
        st.text("abc", min_size=1),
        st.text()
        | st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.lists(st.text(), max_size=2)
        | st.sampled_from(
            ["no", "On", "1e-3", "0o17", "~", "NULL", "true", "1_0", "2024-01-01", ".inf", "a: b", "- a"]
        ),
    )
)
def test_what_is_written_is_read_back(values):
    assert parse_yaml(write_yaml(values), "settings") == values


def test_a_misspelt_option_is_refused_with_the_nearest(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("max_steps: 1")
    with pytest.raises(ValueError, match="unknown option 'batch_token'; did you mean 'batch_tokens'"):
        TrainingConfig.load(path, ["--batch_token", "5"])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"whole_word_masking": True}, "whole_word_masking is True; expected false: only masked_lm"),
        ({"task": "causal_lm"}, "corpus is verses; expected 'bible' for a language model"),
        ({"corpus": "bible"}, "corpus is bible; expected 'verses' for translation"),
        (
            {"corpus": "verses_ko", "target_column": "en"},
            "source_column is source and target_column en; expected en and ko, or ko and en, for verses_ko",
        ),
        (
            {"corpus": "verses_ko", "target_column": "en"},
            "source_column is source and target_column en; expected en and ko, or ko and en, for verses_ko",
        ),
        ({"task": "masked_lm", "corpus": "a.txt", "target_path": "b.txt"}, "only translation has two sides"),
        ({"initial_model": "a", "tokenizer": "b"}, "tokenizer is b; expected nothing: initial_model has its own"),
        ({"tokenizer": "b", "language_tags": ["<2de>"]}, "language_tags is .'<2de>'.; expected nothing: b has a tok"),
        ({"initial_model": "a", "tokenizer_type": "words"}, "tokenizer_type is words; expected nothing: a has a"),
        ({"min_frequency": 0}, "min_frequency is 0; expected a positive number"),
        ({"schedule": "cosin"}, "schedule is cosin; expected one of .*; did you mean 'cosine'?"),
        (
            {"schedule": "cosine", "max_steps": None, "train_minutes": 1},
            "max_steps is None; expected a number: the sched",
        ),
        (
            {"schedule": "linear", "max_steps": 10, "warmup_steps": 20},
            r"warmup_steps is 20; expected less than max_steps",
        ),
        ({"warmup_steps": 2.5}, "warmup_steps is 2.5; expected updates, or below 1 a share"),
        ({"warmup_steps": 0.1, "max_steps": None, "train_minutes": 1}, "warmup_steps is 0.1; expected updates, or"),
        ({"architecture": "recurrent", "optimizer": "muon"}, "optimizer is muon; expected adam for recurrent models"),
        ({"architecture": "recurrent", "qk_head_dim": 8}, "qk_head_dim is 8; .* not for architecture recurrent"),
        ({"streaming": True, "loader_workers": 2}, "loader_workers is 2; expected at most 1 with streaming"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**({"max_steps": 10_000} | fields))


def test_warm_up_is_a_tenth_of_the_time_where_the_rate_follows_it_and_the_papers_elsewhere():
    assert TrainingConfig(max_steps=10_000).warmup_steps == 4000
    assert TrainingConfig(train_minutes=5).warmup_steps == 4000  # equation 3 knows no end
    assert TrainingConfig(train_minutes=5, schedule="linear").warmup_steps == 0.1
    assert TrainingConfig(max_steps=100, schedule="cosine", warmup_steps=0.2).warmup_steps == 0.2
    share = TrainingConfig(max_steps=100, warmup_steps=0.2)
    assert TrainingConfig(max_steps=200, warmup_steps=0.2).changes(vars(share)) == ["max_steps was 100, now 200"]


def test_what_may_change_when_a_run_is_resumed_depends_on_what_it_does():
    noam = TrainingConfig(max_steps=10)
    assert not TrainingConfig(max_steps=20, log_every=3).changes(vars(noam))
    linear = TrainingConfig(max_steps=10, schedule="linear", warmup_steps=1)
    changed = TrainingConfig(max_steps=20, schedule="linear", warmup_steps=1, dropout=0.2).changes(vars(linear))
    assert sorted(changed) == ["dropout was 0.1, now 0.2", "max_steps was 10, now 20"]


def test_a_run_of_an_earlier_version_goes_on():
    """Its configuration lacks the fields that came later."""
    earlier = vars(TrainingConfig(max_steps=20)).copy()
    for name in ("scale_embedding", "norm_position", "tokenizer_type", "min_frequency", "language_tags"):
        del earlier[name]
    earlier["max_position_embeddings"] = 512  # which was the default, though sinusoids have no limit
    assert not TrainingConfig(max_steps=20).changes(earlier)
    assert TrainingConfig(max_steps=20, norm_position="pre").changes(earlier) == ["norm_position was post, now pre"]


# Fields of the models, which their configuration classes declare

CLASSES = {name: getattr(hf_vanilla, name) for name in CONFIGURATION_CLASSES.values()}
BY_THE_TOKENIZER = {"vocab_size", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"}
BY_THE_TASK = {"is_encoder_decoder", "output_logits"}


def declared_fields(config_class):
    """The fields that the classes of this package declare for a configuration, not those of transformers."""
    bases = [base for base in config_class.__mro__ if base.__module__.startswith("hf_vanilla.")]
    annotations = {name: kind for base in bases for name, kind in vars(base).get("__annotations__", {}).items()}
    return {name for name, kind in annotations.items() if "ClassVar" not in str(kind)}


@pytest.mark.parametrize(("chosen", "name"), CONFIGURATION_CLASSES.items(), ids=lambda value: str(value))
def test_every_field_of_a_model_can_be_set_and_has_the_default_of_its_class(chosen, name):
    config = TrainingConfig(
        task=chosen[0], architecture=chosen[1], corpus="verses" if chosen[0] == "translation" else "a.txt", max_steps=1
    )
    depth = {"masked_lm": "encoder_layers", "causal_lm": "decoder_layers"}.get(chosen[0])
    named = {depth if field == "num_hidden_layers" else field for field in declared_fields(CLASSES[name])}
    offered = {field for field, of in model_fields().items() if name in of.owners}
    assert offered == named - BY_THE_TOKENIZER - BY_THE_TASK
    # A recurrent model of a training run has as many layers as a Transformer, unless it says otherwise.
    own = {"encoder_layers": 6, "decoder_layers": 6} if name == "RecurrentConfig" else {}
    assert CLASSES[name](**config.model_settings()).to_dict() == CLASSES[name](**own).to_dict()


def test_choices_are_those_of_the_class():
    enumerations = {name: field for name, field in model_fields().items() if field.choices}
    assert {"norm_position", "position_embedding_type", "cell_type", "attention_type"} <= enumerations.keys()
    for name, field in enumerations.items():
        config_class, needed = (
            CLASSES[field.owners[0]],
            {"attention_type": "local"} if name == "local_alignment" else {},
        )
        for choice in field.choices:
            config_class(**needed | {name: choice})
        with pytest.raises(StrictDataclassError, match=f"`{name}` must be one of") as raised:
            config_class(**needed | {name: "other"})
        allowed = str(raised.value).split("must be one of ")[1].split(", got")[0]
        assert set(allowed.split(", ")) == set(field.choices)


def test_the_papers_names_are_understood(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("d_model: 64\nh: 4\nmax_steps: 1\n")
    config = TrainingConfig.load(path, ["--d_ff", "96", "--P_drop=0.2"])
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size, config.dropout) == (
        64,
        4,
        96,
        0.2,
    )
    assert paper_names().items() <= hf_vanilla.VanillaConfig.attribute_map.items()
    path.write_text("N: 3\nd_model: 64\nmax_steps: 1\n")
    for options, depths in (
        ([], (3, 3)),
        (["--N=4"], (4, 4)),
        (["--encoder_layers", "2", "--hidden-size=32"], (2, 3)),
    ):
        config = TrainingConfig.load(path, options)
        assert (config.encoder_layers, config.decoder_layers) == depths
        assert config.hidden_size == (32 if len(options) > 1 else 64)  # the command line changes what the file says


@pytest.mark.parametrize("names", [("N", "encoder_layers"), ("decoder_layers", "N"), ("h", "num_attention_heads")])
@pytest.mark.parametrize("values", [(4, 2), (2, 4)])
def test_two_names_of_a_field_must_agree(tmp_path, names, values):
    path = tmp_path / "run.yaml"
    lines = "".join(f"{name}: {value}\n" for name, value in zip(names, values, strict=True))
    options = [f"--{name}={value}" for name, value in zip(names, values, strict=True)]
    path.write_text("max_steps: 1\n")
    message = f"{names[0]} is {values[0]} and {names[1]} is {values[1]}, but both are .*: give one of them"
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(path, options)
    path.write_text(f"max_steps: 1\n{lines}")
    with pytest.raises(ValueError, match=message):
        TrainingConfig.load(path)
    path.write_text(f"max_steps: 1\n{names[0]}: 4\n{names[1]}: 4\n")
    TrainingConfig.load(path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell_type": "gru"}, "cell_type is gru; expected nothing: it is not for architecture transformer"),
        ({"type_vocab_size": 2}, "type_vocab_size is 2; expected nothing: it is not for task translation"),
        (
            {"architecture": "recurrent", "attention_dropout": 0.1},
            "attention_dropout is 0.1; .* architecture recurrent",
        ),
    ],
)
def test_a_field_that_the_model_does_not_have_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(max_steps=1, **fields)


@pytest.mark.parametrize("given", ["--streaming", "--streaming=true", "--streaming yes", "--streaming 1"])
def test_switches_take_a_value_or_none(tmp_path, given):
    path = tmp_path / "run.yaml"
    path.write_text("max_steps: 1\nscale_embedding: no\n")
    config = TrainingConfig.load(path, given.split())
    assert config.streaming is True and config.scale_embedding is False
    with pytest.raises(ValueError, match="--compile: expected true or false .* got 'maybe'"):
        TrainingConfig.load(path, ["--compile", "maybe"])
    with pytest.raises(ValueError, match="--seed/--.*expected one argument|--seed: expected one argument"):
        TrainingConfig.load(path, ["--seed"])


def test_help_and_mistakes_need_neither_torch_nor_transformers():
    code = """
import sys
from hf_vanilla.training.config import TrainingConfig
assert "--embedding_norm" in TrainingConfig.parser("hf-vanilla train").format_help()
try:
    TrainingConfig.load("scripts/configs/tiny.yaml", ["--norm_position", "middle"])
except ValueError as error:
    print(error, {"torch", "transformers"} & sys.modules.keys())
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    assert "invalid choice: 'middle'" in result.stdout and result.stdout.endswith("set()\n")


def test_metrics_and_the_target_language_are_checked_and_may_change_when_a_run_resumes(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("max_steps: 3\nmetrics: [exact_match, character_error_rate]\ntarget_language: zh-TW\n")
    config = TrainingConfig.load(path)
    assert config.metrics == ["exact_match", "character_error_rate"] and config.target_language == "zh-TW"
    assert not config.changes(dataclasses.asdict(TrainingConfig(max_steps=3)))
    for fields, message in (
        ("metrics: [exact]", "no score 'exact'"),
        ("target_language: Chinese", "ISO 639"),
        ("task: causal_lm\ncorpus: bible\nmetrics: [bleu]", "only translation has two sides"),
    ):
        path.write_text(f"max_steps: 3\n{fields}\n")
        with pytest.raises(ValueError, match=message):
            TrainingConfig.load(path)
