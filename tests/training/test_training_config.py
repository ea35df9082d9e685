"""Configurations: files and command lines that are read, and those that are refused."""

import pytest

from hf_vanilla.training.config import TrainingConfig


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
        ("zzz: 1", "unknown field 'zzz'; the fields are task, output_dir"),
        ("max_steps: -1", "max_steps is -1; expected a positive number"),
        ("max_steps: many", "invalid int value: 'many'"),
        ("label_smoothing: 1.0\nmax_steps: 1", r"label_smoothing is 1.0; expected a number in \[0, 1\)"),
        ("seed: 1", "max_steps is None; expected a limit here or in train_minutes"),
        ("task: masked", "invalid choice: 'masked'"),
        ("seed: {a: 1}", "seed is {'a': '1'}; expected a value"),
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
        ({"task": "masked_lm", "corpus": "a.txt", "target_path": "b.txt"}, "only translation has two sides"),
        ({"initial_model": "a", "tokenizer": "b"}, "tokenizer is b; expected nothing: initial_model has its own"),
        ({"schedule": "cosin"}, "schedule is cosin; expected one of .*; did you mean 'cosine'?"),
        (
            {"schedule": "cosine", "max_steps": None, "train_minutes": 1},
            "max_steps is None; expected a number: the sched",
        ),
        (
            {"schedule": "linear", "max_steps": 10, "warmup_steps": 20},
            r"warmup_steps is 20; expected less than max_steps",
        ),
        ({"qk_head_dim": 0}, "qk_head_dim is 0; expected a positive number or nothing"),
        ({"architecture": "recurrent", "qk_head_dim": 8}, "qk_head_dim is 8; .* not for architecture recurrent"),
        ({"streaming": True, "loader_workers": 2}, "loader_workers is 2; expected at most 1 with streaming"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**({"max_steps": 10_000} | fields))


def test_what_may_change_when_a_run_is_resumed_depends_on_what_it_does():
    noam = TrainingConfig(max_steps=10)
    assert not TrainingConfig(max_steps=20, log_every=3).changes(vars(noam))
    linear = TrainingConfig(max_steps=10, schedule="linear", warmup_steps=1)
    changed = TrainingConfig(max_steps=20, schedule="linear", warmup_steps=1, dropout=0.2).changes(vars(linear))
    assert changed == ["dropout was 0.1, now 0.2", "max_steps was 10, now 20"]


def test_a_run_of_an_earlier_version_goes_on():
    """Its configuration lacks the fields that came later."""
    earlier = vars(TrainingConfig(max_steps=20)).copy()
    del earlier["scale_embedding"], earlier["norm_position"]
    assert not TrainingConfig(max_steps=20).changes(earlier)
    assert TrainingConfig(max_steps=20, norm_position="pre").changes(earlier) == ["norm_position was post, now pre"]
