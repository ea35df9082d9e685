"""Long texts: cut where sentences end in any script, and joined as the script joins."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_vanilla.translation.cutting import find_cut, join_parts, one_line, split_sentences

MIXED = st.text() | st.text('aB5.!?…。！？।؟ \u00a0\n"»”)他เ่ा\u0301\u200d')


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Mr. Smith came. He saw Mrs. Jones.", "en", ["Mr. Smith came. ", "He saw Mrs. Jones."]),
        ("Am 5. Mai kam er. Dann ging er.", "en", ["Am 5. Mai kam er. ", "Dann ging er."]),
        ("1. Open it. 2. Close it.", "en", ["1. Open it. ", "2. Close it."]),
        ("J. R. R. Tolkien wrote. We read.", "en", ["J. R. R. Tolkien wrote. ", "We read."]),
        ("M. Dupont est l\u00e0. Il part.", "en", ["M. Dupont est l\u00e0. ", "Il part."]),
        ("Er kam z.B. gestern an. Gut.", "de", ["Er kam z.B. gestern an. ", "Gut."]),
        ("他来了。她走了！是吗？", "zh", ["他来了。", "她走了！", "是吗？"]),
        ("彼は来た。私は行く。", "en", ["彼は来た。", "私は行く。"]),
        ("यह है। वह गया।", "hi", ["यह है। ", "वह गया।"]),
        ("هل جاء؟ نعم.", "ar", ["هل جاء؟ ", "نعم."]),
        ("It is 5\u00a0km. Go!", "xx", ["It is 5\u00a0km. ", "Go!"]),
    ],
)
def test_sentences_end_where_they_end(text, language, expected):
    assert split_sentences(text, language) == expected


@settings(max_examples=300, deadline=None)
@given(text=MIXED)
def test_nothing_is_lost_between_sentences(text):
    assert "".join(split_sentences(text)) == text


@settings(max_examples=300, deadline=None)
@given(text=MIXED.filter(lambda text: len(text) > 2), data=st.data())
def test_a_cut_goes_on_and_is_at_a_blank_if_there_is_one(text, data):
    start = data.draw(st.integers(0, len(text) - 2))
    end = data.draw(st.integers(start + 1, len(text) - 1))
    cut = find_cut(text, start, end)
    assert start < cut <= max(end, start + 1)
    assert text[cut] != "\u00a0" or not any(letter in " \n" for letter in text[start + 1 : end + 1])


def test_marks_stay_with_their_letters():
    text = "e\u0301" * 10
    assert find_cut(text, 0, 5) == 4 and find_cut(text, 0, 4) == 4


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["He came.", "She left."], "He came. She left."),
        (["他来了。", "她走了。"], "他来了。她走了。"),
        (["彼は「行く」", "と言った。"], "彼は「行く」と言った。"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["그가 왔다.", "그녀는 갔다."], "그가 왔다. 그녀는 갔다."),
        (["यह है।", "", "वह गया।"], "यह है। वह गया।"),
        (["5", "6"], "5 6"),
        ([], ""),
    ],
)
def test_parts_are_joined_as_their_script_joins(parts, expected):
    assert join_parts(parts) == expected


def test_a_translation_is_one_line_whose_no_break_spaces_survive():
    assert one_line(" 5\u00a0km \n\r\n\tweit\u202f!\u2028") == "5\u00a0km weit\u202f!"
