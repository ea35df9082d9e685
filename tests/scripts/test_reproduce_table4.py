"""Table 4: brackets count as in evalb, the treebank keeps its rule, and the script goes on where it was."""

import json
import math
from collections import Counter
from itertools import islice
from pathlib import Path

import evaluate_trees
import pytest
import reproduce_table4
import torch
from filelock import FileLock
from paper import parsers
from paper import treebank as grammar_of_treebank
from paper.trees import Tree, brackets, delinearise, linearise, read_treebank, read_trees, score

# A gold tree, a prediction, and what evalb (of the package allennlp 0.9.0, with COLLINS.prm) prints of them: brackets
# that match, of the gold tree, of the prediction; None for an "Error sentence".
OF_EVALB = [
    (
        "(S (NP (DT the) (NN cat)) (VP (VBD saw) (NP (NP (DT a) (NN dog)) (PP (IN with) (NP (NNS spots))))) (. .))",
        "(S (NP (DT the) (NN cat)) (VP (VBD saw) (NP (DT a) (NN dog)) (PP (IN with) (NP (NNS spots)))) (. .))",
        (6, 7, 6),
    ),
    (
        "(S (NP (NNP ann)) (, ,) (VP (VBZ runs)) (. .))",  # punctuation may stand anywhere
        "(S (NP (NNP ann) (, ,)) (VP (VBZ runs) (. .)))",
        (3, 3, 3),
    ),
    (  # no empty elements, function tags, indices and TOP
        "(TOP (S (NP-SBJ-1 (PRP it)) (VP (VBD was) (VP (VBN seen) (NP (-NONE- *-1)) (PP-LGS (IN by) (NP (NNP x)))))))",
        "(S (NP (PRP it)) (VP (VBD was) (VP (VBN seen) (PP (IN by) (NP (NNP x))))))",
        (6, 6, 6),
    ),
    (
        "(S (NP (PRP she)) (VP (VBZ picks) (PRT (RP up)) (NP (PRP it))))",
        "(S (NP (PRP she)) (VP (VBZ picks) (ADVP (RB up)) (NP (PRP it))))",
        (5, 5, 5),
    ),
    ("(S (NP (NP (NNS cats))) (VP (VBP sleep)))", "(S (NP (NNS cats)) (VP (VP (VBP sleep))))", (3, 4, 4)),
    ("(S (NP (NNS cats)) (VP (VBP sleep)))", "(S (NP (NNS dogs)) (VP (VBP sleep)))", None),
    ("(S (NP (NNS cats)) (VP (VBP sleep) (ADVP (RB here))))", "(S (NP (NNS cats)) (VP (VBP sleep)))", None),
    ("(S (NP=2 (NN gold)) (NP-TMP=3 (NN today)))", "(S (NX (NN gold)) (NP (NN today)))", (2, 3, 3)),
    ("(S (`` ``) (VP (VB go)) ('' '') (: ;))", "(FRAG (`` ``) (VP (VB go) ('' '') (: ;)))", (1, 2, 2)),
]


def tree(text: str) -> Tree:
    (found,) = read_trees(text)
    return found


@pytest.mark.parametrize(("gold", "predicted", "counts"), OF_EVALB)
def test_brackets_match_as_in_evalb(gold, predicted, counts):
    (words, right), (other_words, found) = brackets(tree(gold)), brackets(tree(predicted))
    if counts is None:
        assert words != other_words
    else:
        assert words == other_words and ((right & found).total(), right.total(), found.total()) == counts


def test_totals_are_those_of_evalb_and_wrong_words_cost_all_brackets():
    scores = score(*([tree(pair[side]) for pair in OF_EVALB] for side in (0, 1)))
    assert round(scores["f1_of_valid"], 2) == 88.14  # evalb's FMeasure
    # By hand: the sentences with other words have 3 + 4 brackets in gold trees and 3 + 3 in predictions.
    assert scores["precision"] == pytest.approx(100 * 26 / 35) and scores["recall"] == pytest.approx(100 * 26 / 37)
    assert scores["f1"] == pytest.approx(100 * 52 / 72) and scores["complete_match"] == pytest.approx(100 * 3 / 9)
    assert (scores["sentences"], scores["other_words"]) == (9, 2)
    with pytest.raises(ValueError):
        score([tree(OF_EVALB[0][0])], [])


def test_trees_are_read_as_the_penn_treebank_writes_them():
    found = list(read_trees("( (S (NP (NN a))\n  (VP (VBZ b))) )\n(NP (NN c))"))
    assert [each.label for each in found] == ["", "NP"] and found[0].words() == ["a", "b"]
    assert str(found[0].children[0]) == "(S (NP (NN a)) (VP (VBZ b)))"
    for text, problem in [
        ("(S (NN a)\n(NP)", "line 2: the bracket 'NP'"),
        ("(S a b)", "neither"),
        ("(S\n(NN a)", "1 brackets are not closed"),
        ("(NN a)\n)", "line 2: '\\)' stands outside"),
    ]:
        with pytest.raises(ValueError, match=problem):
            list(read_trees(text))


def test_a_tree_survives_the_sequence_that_stands_for_it():
    gold = tree(OF_EVALB[2][0])
    text = linearise(gold)
    assert text == "(S (NP PRP )NP (VP VBD (VP VBN (PP IN (NP NNP )NP )PP )VP )VP )S"
    again, correct = delinearise(text, gold.leaves())
    assert correct and score([gold], [again])["complete_match"] == 100


@pytest.mark.parametrize(
    ("text", "repaired"),
    [
        ("(S (NP NN )NP (VP VBZ", "(TOP (S (NP (NN a)) (VP (VBZ b))))"),  # not closed
        ("(S (NP NN (VP VBZ )NP )S", "(TOP (S (NP (NN a) (VP (VBZ b)))))"),  # closed with its outer bracket
        ("(S (NP NN )NP )VP VBZ )S", "(TOP (S (NP (NN a)) (VBZ b)))"),  # closes nothing
        ("(S (NP NN )NP )S (VP VBZ )VP", "(TOP (S (NP (NN a))) (VP (VBZ b)))"),  # two trees
        ("(S (NP NN )NP (PP )PP VBZ )S", "(TOP (S (NP (NN a)) (VBZ b)))"),  # holds nothing
        ("(S NN )S", "(TOP (S (XX XX)))"),  # other words
        ("(S NN ( VBZ )S", "(TOP (S (XX XX) (XX XX) (XX XX)))"),
        ("", "(TOP (XX XX))"),
    ],
)
def test_what_is_no_tree_becomes_one(text, repaired):
    found, correct = delinearise(text, tree("(S (NN a) (VBZ b))").leaves())
    assert not correct and str(found) == repaired
    assert list(read_trees(str(found))) == [found]


def test_empty_elements_are_taken_out_with_the_brackets_that_hold_nothing_else():
    found = reproduce_table4.without_empty_elements(tree("(S (NP (-NONE- *)) (VP (VB go) (NP (-NONE- *T*-1))) (. .))"))
    assert str(found) == "(S (VP (VB go)) (. .))"
    assert reproduce_table4.without_empty_elements(tree("(S (NP (-NONE- *)))")) is None


def test_tags_are_not_scored():
    found, correct = delinearise("(S VBZ , )S", tree("(S (NN a) (VBZ b))").leaves())
    assert correct and str(found) == "(TOP (S (NN a) (VBZ b)))"


def test_the_evaluation_prints_scores_and_names_what_it_cannot_read(tmp_path, monkeypatch, capsys):
    paths = [tmp_path / "gold.mrg", tmp_path / "predicted.mrg"]
    for side, path in enumerate(paths):
        path.write_text("\n".join(pair[side] for pair in OF_EVALB[:2]))
    monkeypatch.setattr("sys.argv", ["evaluate_trees.py", *map(str, paths)])
    evaluate_trees.main()
    assert "f1                  94.74" in capsys.readouterr().out  # 2 * 9 / (10 + 9)
    for text, problem in (("", "no trees"), (OF_EVALB[0][1], "1; expected as many")):
        paths[1].write_text(text)
        with pytest.raises(SystemExit, match=rf"predicted\.mrg:? {problem}"):
            evaluate_trees.main()


# The generated treebank


@pytest.fixture(scope="module")
def treebank():
    return list(grammar_of_treebank.generate(400, seed=3))


def test_generated_trees_are_different_drawn_again_and_survive_as_sequences(treebank):
    sentences = [" ".join(each.words()) for each in treebank]
    assert (
        len(set(sentences)) == len(sentences)
        and max(len(each.words()) for each in treebank) <= grammar_of_treebank.MOST_WORDS
    )
    assert list(islice(grammar_of_treebank.generate(10**6, seed=3), 20)) == treebank[:20]
    for each in treebank:
        again, correct = delinearise(linearise(each), each.leaves())
        assert correct and again == Tree("TOP", (each,))


KINDS = {noun: kind for kind, (_, nouns) in grammar_of_treebank.NOUNS.items() for noun in nouns.split()}
TAKEN_BY_VERB = {}
for forms, _, _, phrases in grammar_of_treebank.VERBS:
    base, past, *_ = forms.split()
    for form in (base, past, grammar_of_treebank.third_person(base)):
        TAKEN_BY_VERB.setdefault(form, set()).update(phrases.split())


def head(part: Tree) -> str:
    """The noun of a noun phrase, the verb of a verb phrase, with its tag."""
    if part.is_word:
        return f"{part.label} {part.children[0]}"
    if part.label == "NP":
        first = part.children[0]
        return head(first if first.label == "NP" else part.children[-1])
    return head(next(child for child in part.children if child.label.startswith("V")))


def takes(part: Tree, phrase: str) -> bool:
    tag, word = head(part).split()
    if tag in ("NN", "NNS"):
        return phrase in grammar_of_treebank.NOUNS[KINDS[word if tag == "NN" else word[:-1]]][0].split()
    return tag.startswith("VB") and tag != "VBN" and phrase in TAKEN_BY_VERB.get(word, ())


def right_edge(part: Tree):
    if not part.is_word:
        # Of two that are joined, only the last ends here.
        joined = any(child.label == "CC" for child in part.children)
        if part.label in ("NP", "VP") and not joined and part.children[0].label not in ("MD", "TO"):
            yield part
        yield from right_edge(part.children[-1])


def test_prepositional_phrases_belong_to_the_nearest_that_takes_them(treebank):
    checked = far = 0

    def check(part: Tree) -> None:
        nonlocal checked, far
        for number, child in enumerate(part.children):
            if child.is_word:
                continue
            check(child)
            preposition = child.children[0].children[0]
            noun = head(child.children[1]).split() if child.label == "PP" else ["NNP"]
            if noun[0] not in ("NN", "NNS") or part.children[0].label == "VBN":
                continue
            phrase = f"{preposition}:{KINDS[noun[1] if noun[0] == 'NN' else noun[1][:-1]]}"
            assert takes(part, phrase), (str(part), phrase)
            nearer = [] if part.label == "NP" and number == 1 else list(right_edge(part.children[number - 1]))
            assert not any(takes(other, phrase) for other in nearer), (str(part), phrase)
            checked, far = checked + 1, far + bool(nearer)

    for each in treebank:
        check(each)
    assert checked > 300 and far > 50  # many with something nearer that does not take them


def test_verbs_agree_with_their_subjects(treebank):
    numbers = {"VBZ": set(), "VBP": set()}

    def check(part: Tree) -> None:
        if part.is_word:
            return
        subjects = [child for child in part.children if child.label == "NP"]
        if part.label == "S" and subjects:
            verb = part.children[-2 if part.children[-1].label == "." else -1]
            tag = head(verb).split()[0]
            joined = any(child.label == "CC" for child in subjects[-1].children)
            plural = joined or head(subjects[-1]).startswith("NNS") or head(subjects[-1]) == "PRP they"
            if tag in numbers:
                numbers[tag].add(plural)
        for child in part.children:
            check(child)

    for each in treebank:
        check(each)
    assert numbers == {"VBZ": {False}, "VBP": {True}}


# Parsers without words


def test_simple_parsers_find_what_they_should():
    high = "(S (NP (PRP I)) (VP (VBD saw) (NP (NN a)) (PP (IN of) (NP (NN b)))) (. .))"
    low = "(S (NP (PRP I)) (VP (VBD saw) (NP (NP (NN a)) (PP (IN of) (NP (NN b))))) (. .))"
    for trees, expected in (([high, high, low], high), ([low, low, high], low)):
        trees = list(map(tree, trees))
        right = parsers.RightBranching(trees)
        leaves = trees[0].leaves()
        flat = right.parse(leaves)
        assert str(flat) == "(S (PRP I) (VP (VBD saw) (NP (NN a) (PP (IN of) (NP (NN b))))) (. .))"
        frequent = parsers.MostFrequentTree(trees, right)
        assert str(frequent.parse(leaves)) == f"(TOP {expected})"
        assert frequent.parse(leaves[:2]) == right.parse(leaves[:2])
        grammar = parsers.TreebankGrammar(trees, right)
        assert str(grammar.parse(leaves)) == f"(TOP {expected})"
        assert grammar.parse(leaves[3:]) == right.parse(leaves[3:])  # no tree for these


def test_the_grammar_s_tree_is_the_most_probable(treebank):
    grammar = parsers.TreebankGrammar(treebank, None)
    probabilities = {(child,): dict(found) for child, found in grammar.unary.items()}
    for left, found in grammar.binary.items():
        for right, parent, value in found:
            probabilities.setdefault((left, right), {})[parent] = value

    def value(each: Tree) -> float:
        counts = Counter()
        grammar.count(each, "TOP", counts)
        return sum(n * probabilities[rule[1:]].get(rule[0], -math.inf) for rule, n in counts.items())

    scores = [(value(grammar.parse(each.leaves()).children[0]), value(each)) for each in treebank[:60]]
    assert all(found >= gold - 1e-9 for found, gold in scores) and any(found > gold + 1e-9 for found, gold in scores)


# The script


def test_words_and_brackets_are_tokens(treebank):
    tokenizer = reproduce_table4.make_tokenizer(treebank, 340)
    assert len(tokenizer) == 340
    for each in treebank[:50]:
        encoded = tokenizer(" ".join(each.words()), text_target=linearise(each))
        assert len(encoded["input_ids"]) == len(each.words()) + 1 and encoded["input_ids"][-1] == 2
        assert tokenizer.decode(encoded["labels"], skip_special_tokens=True) == linearise(each)
    small = reproduce_table4.make_tokenizer(treebank, 60)
    assert len(small) == 60 and 3 in small(" ".join(treebank[0].words()))["input_ids"]
    with pytest.raises(ValueError, match="vocab_size is 10"):
        reproduce_table4.make_tokenizer(treebank, 10)


def test_the_paper_s_model_has_its_size(tmp_path):
    from hf_vanilla import VanillaForConditionalGeneration
    from hf_vanilla.training.tasks import TASKS

    config = reproduce_table4.training_config("paper", 1, tmp_path, [])
    with torch.device("meta"):
        model = VanillaForConditionalGeneration(
            TASKS["translation"](config).model_config(vocab_size=config.vocab_size)
        )
    width, inner = 1024, 2048
    attention, feed_forward, norm = 4 * width**2, 2 * width * inner, 2 * width
    biases = sum(
        weight.numel() for name, weight in model.named_parameters() if name.endswith("bias") and "norm" not in name
    )
    layers = 4 * (attention + feed_forward + 2 * norm) + 4 * (2 * attention + feed_forward + 3 * norm)
    assert sum(weight.numel() for weight in model.parameters()) == 16_000 * width + layers + biases


def test_the_search_is_that_of_section_6_3(treebank, tmp_path):
    from hf_vanilla import RecurrentConfig, RecurrentForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = reproduce_table4.make_tokenizer(treebank, 340)
    model = RecurrentForConditionalGeneration(RecurrentConfig(vocab_size=340, hidden_size=8, N=1)).eval()
    asked, generate = [], model.generate
    model.generate = lambda **options: asked.append(options) or generate(**options | {"max_new_tokens": 4})
    predicted, malformed = reproduce_table4.parse(model, tokenizer, treebank[:3])
    assert len(predicted) == 3 and malformed == 3
    longest = max(len(each.words()) for each in treebank[:3]) + 1
    for options in asked:
        assert (options["num_beams"], options["length_penalty"], options["max_extra_tokens"]) == (21, 0.3, 300)
    assert max(options["max_new_tokens"] for options in asked) == longest + 300


def test_the_table_goes_on_and_reports_all_that_is_done(treebank, tmp_path, monkeypatch, capsys):
    own = tmp_path / "trees"
    own.mkdir()
    for name, part in (("train", treebank[:150]), ("test", sorted(treebank[150:], key=lambda t: -len(t.words()))[:4])):
        (own / f"{name}.mrg").write_text("".join(f"{each}\n" for each in part))
    folder = tmp_path / "runs"
    settings = ["--max_steps", "3", "--warmup_steps", "1", "--batch_tokens", "300", "--intermediate_size", "16"]
    settings += ["--schedule", "noam"]
    settings += ["--hidden_size", "8", "--num_attention_heads", "2", "--encoder_layers", "1", "--decoder_layers", "1"]
    monkeypatch.setattr(reproduce_table4, "EXTRA_TOKENS", 5)

    def reproduce(*options):
        arguments = ["reproduce_table4.py", str(folder), "--treebank", str(own), "--seeds", "1", *options, *settings]
        monkeypatch.setattr("sys.argv", arguments)
        reproduce_table4.main()

    precision = torch.get_float32_matmul_precision()
    with pytest.raises(SystemExit):
        reproduce("--label_smoothing", "2")
    assert "label_smoothing is 2" in capsys.readouterr().err and not folder.exists()
    reproduce("--systems", "transformer")
    path = folder / "transformer-seed1" / "result.json"
    before, result = path.stat().st_mtime_ns, json.loads(path.read_text())
    assert result["updates"] == 3 and result["sentences"] == 4
    again = score(*(read_treebank(p) for p in (own / "test.mrg", path.parent / "predicted.mrg")))
    assert again == {name: result[name] for name in again}
    reproduce()
    assert path.stat().st_mtime_ns == before
    recurrent = json.loads((folder / "recurrent-seed1" / "result.json").read_text())
    assert recurrent["target_tokens"] == result["target_tokens"] and recurrent["epochs"] == result["epochs"]
    table = (folder / "table4.md").read_text()
    assert "| recurrent, additive attention | 88.3" in table and "| treebank grammar, gold tags | " in table
    assert f"| {result['f1']:.1f} |" in table
    capsys.readouterr()
    with pytest.raises(SystemExit):
        reproduce("--label_smoothing", "0.2")
    assert "label_smoothing was 0.0, now 0.2. Choose another folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # or the table would hold seeds of two kinds
        reproduce("--seeds", "2", "--label_smoothing", "0.2")
    assert "label_smoothing was 0.0, now 0.2. Choose another folder" in capsys.readouterr().err
    settings[1] = "8"
    with pytest.raises(SystemExit):
        reproduce()
    assert "max_steps was 3, now 8. Choose another folder" in capsys.readouterr().err
    settings[1] = "3"
    (own / "train.mrg").write_text("(S (NN a) (VBZ b))")
    with pytest.raises(SystemExit):
        reproduce("--seeds", "2")
    assert "holds runs on other trees. Choose another folder" in capsys.readouterr().err
    (own / "test.mrg").write_text("(NN a")
    with pytest.raises(SystemExit):
        reproduce()
    assert "test.mrg: 1 brackets are not closed" in capsys.readouterr().err
    with FileLock(folder / "lock"), pytest.raises(SystemExit):
        reproduce()
    assert "another process is at" in capsys.readouterr().err
    torch.set_float32_matmul_precision(precision)


def test_the_card_s_table_is_of_the_results_that_are_kept():
    root = Path(reproduce_table4.__file__).parents[1]
    folder = root / "scripts" / "results" / "table4"
    table = reproduce_table4.report(folder, json.loads((folder / "baselines.json").read_text(encoding="utf-8")))
    assert table.count("| 3 |") == 3 and table in (root / "model_cards" / "paper.md").read_text(encoding="utf-8")
