"""Write questions to texts, and choices between statements, whose answers follow from the text by a rule.

    python scripts/generate_reading_tasks.py runs/reading
    python scripts/generate_reading_tasks.py runs/reading --rows 20000 --people 6

No free set of either kind installs from a package registry. Here each text says what some people have and where it is.
The answer to "Where is the box of Ann?" is the one place that the text names for it, and of four statements one alone
is in the text. A reader that knows only the form of sentences checks each row, written to
FOLDER/{questions,choices}_{train,validation,test}.jsonl; no text occurs in two splits.
"""

import argparse
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from hf_vanilla.cli.streams import run_program

PEOPLE = "Ann Ben Clara David Emma Frank Grace Henry Iris Jack Kate Leo Mary Noah Olive Paul Rose Sam Tom Vera".split()
THINGS = "ball bell book box chair clock coat cup flag hat key lamp map pen ring rope shoe stone table watch".split()
COLOURS = "black blue brown green grey orange pink purple red white yellow".split()
PLACES = "attic barn cellar church forest garden hall harbour kitchen library market mill museum office park".split()
Fact = tuple[str, str, str, str]
Row = dict[str, object]
FACT = re.compile(r"([A-Z][a-z]+) has a ([a-z]+) ([a-z]+) in the ([a-z]+)\.")
QUESTION = re.compile(r"Where is the ([a-z]+) of ([A-Z][a-z]+)\?")
CHOICES = 4


def statement(fact: Fact) -> str:
    """Return the sentence that says of a person the colour, the thing and the place."""
    return "{} has a {} {} in the {}.".format(*fact)


def answer_to(context: str, question: str) -> list[str]:
    """Return every place that the text names for the thing of the person who is asked for."""
    ((thing, person),) = QUESTION.findall(question)
    return [place for who, _, what, place in FACT.findall(context) if (who, what) == (person, thing)]


def true_choices(context: str, choices: list[str]) -> list[int]:
    """Return the numbers of the statements that are in the text."""
    return [i for i, choice in enumerate(choices) if FACT.findall(choice)[0] in FACT.findall(context)]


def rows(count: int, people: int, seed: int) -> Iterator[tuple[Row, Row]]:
    """Yield a question and a choice for each of `count` different texts; a ValueError says which breaks the rule."""
    draw, seen = random.Random(seed), set()
    while len(seen) < count:
        names = draw.sample(PEOPLE, people)
        facts = [(name, *map(draw.choice, (COLOURS, THINGS, PLACES))) for name in names]
        context = " ".join(map(statement, facts))
        if context in seen:
            continue
        seen.add(context)
        fact = person, colour, thing, place = draw.choice(facts)
        start = context.index(statement(fact)) + statement(fact).rindex(place)
        question = {"context": context, "question": f"Where is the {thing} of {person}?"}
        question["answers"] = {"text": [place], "answer_start": [start]}
        # Wrong choices differ from the right one in colour or place alone, so that no single word gives them away.
        wrong = [(person, other, thing, place) for other in COLOURS if other != colour]
        wrong += [(person, colour, thing, other) for other in PLACES if other != place]
        options = [fact, *draw.sample(wrong, CHOICES - 1)]
        draw.shuffle(options)
        choice = {"context": context, "choices": list(map(statement, options)), "label": options.index(fact)}
        if answer_to(context, question["question"]) != [place] or context[start : start + len(place)] != place:
            raise ValueError(f"the question has another answer: {question}")
        if true_choices(context, choice["choices"]) != [choice["label"]]:
            raise ValueError(f"another choice is right: {choice}")
        yield question, choice


def main() -> None:
    """Write the six files, and print their sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=12_000, help="of all splits, a twelfth each held out (12000)")
    parser.add_argument("--people", type=int, default=4, help=f"people in a text, 1 to {len(PEOPLE)} (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not 1 <= arguments.people <= len(PEOPLE) or arguments.rows < 3:
        parser.error(f"--people must be 1 to {len(PEOPLE)}, --rows at least 3")
    held = max(1, arguments.rows // 12)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    generated = list(rows(arguments.rows, arguments.people, arguments.seed))
    parts = {"validation": generated[:held], "test": generated[held : 2 * held], "train": generated[2 * held :]}
    for split, part in parts.items():
        for kind, of_kind in zip(("questions", "choices"), zip(*part, strict=True), strict=True):
            lines = "".join(json.dumps(row) + "\n" for row in of_kind)
            (arguments.folder / f"{kind}_{split}.jsonl").write_text(lines, encoding="utf-8")
            print(f"{len(of_kind):6,} {arguments.folder / f'{kind}_{split}.jsonl'}")


if __name__ == "__main__":
    run_program(main)
