"""Fixtures of all tests: a training run of seconds, and what no test may leave to the next one; and which tests take
long for what they add to others."""

import sys

import pytest
import torch
from accelerate.state import AcceleratorState
from small_runs import config as config

SLOW = (
    "test_hub.py::test_a_run_becomes_a_page_that_anybody_can_use[masked_lm]",
    "test_hub.py::test_a_run_becomes_a_page_that_anybody_can_use[causal_lm]",
    "test_export.py::test_onnxruntime_gives_our_tokens_and_scores[changes1]",
    "test_export.py::test_onnxruntime_gives_our_tokens_and_scores[changes2]",
    "test_sharded_runs.py::test_sharded_processes_learn_and_measure_what_one_does[masked_lm]",
    "test_sharded_runs.py::test_sharded_processes_learn_and_measure_what_one_does[causal_lm]",
    "test_properties.py::test_an_exported_program_takes_batches_of_any_size",
    "test_properties.py::test_compiled_in_one_graph_equals_eager",
    "test_trainer.py::test_a_compiled_model_learns_the_same",
    "test_trainer.py::test_bf16_and_neftune",
    "test_generation.py::test_compiled_without_graph_breaks_gives_the_same",
    "test_cli.py::test_threads_spin_for_long_unless_the_user_has_a_say[given1",
    "test_cli.py::test_threads_spin_for_long_unless_the_user_has_a_say[given2",
    "transformers_suite/test_vanilla.py::Seq2SeqTest::test_training_overfit",
    "_fsdp2_",
    "::test_hsdp_",
    "test_training.py::test_a_run_that_is_killed_three_times_ends_as_the_uninterrupted_one_bit_by_bit",
    "test_training.py::test_a_damaged_checkpoint_gives_way_to_the_one_before_it",
    "test_training.py::test_a_run_by_muon_learns_and_goes_on_where_it_stopped[masked_lm]",
    "test_training.py::test_a_run_by_muon_learns_and_goes_on_where_it_stopped[causal_lm]",
    "test_finetuning.py::test_a_search_trains_with_the_best_that_it_found[extra1]",
    "test_finetuning.py::test_a_test_split_without_labels_is_predicted_all_the_same[multiple_choice]",
    "test_finetuning.py::test_a_test_split_without_labels_is_predicted_all_the_same[question_answering]",
    "test_finetuning.py::test_a_test_split_without_labels_is_predicted_all_the_same[sequence_classification]",
    "test_speedrun.py::test_all_systems_are_trained_for_their_time_and_none_twice",
    "test_comparisons.py::test_each_system_has_the_best_of_the_rates_and_as_many_updates",
    "test_comparisons.py::test_pretraining_goes_on_from_short_pieces_with_long_ones",
    "test_reproduce_table3.py::test_a_run_that_was_interrupted_goes_on_and_one_that_is_done_stays",
    "test_environment.py::test_freed_memory_is_kept_unless_the_user_has_a_say",
    "test_translator.py::test_a_killed_process_leaves_whole_lines",
    "test_convert.py::test_memory_is_that_of_the_largest_weight",
    "test_attention_figures.py::test_sixty_tokens_and_long_words_do_not_cover_each_other",
    "test_sentence_transformers.py::test_a_cross_encoder_learns_which_sentences_are_alike",
    "test_sentence_transformers.py::test_a_bi_encoder_learns_which_sentences_are_alike[BERT]",
    "test_updates.py::test_a_process_that_the_others_wait_for_is_named",
    "transformers_suite/test_vanilla.py::Seq2SeqTest::test_tp_",
    "_bc_torch_dtype",
    "test_twin.py::test_a_twin_s_page_gives_a_stranger_what_ours_gives[seq2seq]",
    "test_twin.py::test_a_twin_s_page_gives_a_stranger_what_ours_gives[decoder]",
    "test_twin.py::test_a_twin_that_differs_is_refused_by_the_first_layer[seq2seq-model.decoder",
    "test_other_libraries.py::test_an_adapter_has_a_page[seq2seq",
    "test_other_libraries.py::test_an_adapter_has_a_page[decoder",
    "test_other_libraries.py::test_an_adapter_has_a_page[encoder-AutoModelForMaskedLM",
    "test_other_libraries.py::test_a_folder_of_sentence_transformers_has_a_page[ranking",
    "test_hub.py::test_nothing_is_sent_that_does_not_load_without_the_package",
    "test_attention_backends.py::test_flex_attention_reads_boolean_masks[1]",
    "test_trainer.py::test_a_search_finds_the_better_of_two_rates",
    "test_torch_export.py::test_forward_is_one_graph[encoder",
    "test_finetuning.py::test_encoder_decoders_of_transformers_classify_and_take_adapters",
    "test_training_step.py::test_a_compiled_step_is_compiled_once[VanillaEncoderForMaskedLM]",
    "test_training.py::test_a_loss_that_is_not_a_number_on_one_of_two_processes_ends_both",
    "test_generation_modes.py::test_continuous_batching_gives_what_each_prompt_gives_alone",
)
"""Parts of the names of tests that `make test-slow` runs, not `make test`; others have the mark where they stand."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if any(part in item.nodeid for part in SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """Accelerate keeps the precision of a process's first run, which "auto" chooses by the CPU."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(autouse=True)
def fresh_compiler():
    """What one test has compiled makes torch take sizes for variable in the next one."""
    yield
    if "torch._dynamo" in sys.modules and torch._dynamo.utils.counters:
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
