"""A generated treebank: English-like sentences with trees, drawn by a grammar with a lexicon.

No registry has a free treebank of English phrases, so these trees are made up. They hold what makes parsing hard:
prepositional phrases, relative clauses (of subject, of object, reduced), coordinated noun and verb phrases, complement
clauses, adverbs of time. Tags do not tell what these belong to, but the words do, by one rule: to *the nearest phrase
that can take it*, which is often far back in the sentence. NOUNS and VERBS say what a noun or verb can take ("with the
fork" goes with "eats", "with the beard" with "cook"); a relative clause must agree with its noun in number and kind,
verbs that are joined agree in number, tense and subject, and an adverb of time agrees with the tense.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from .runs import write_whole
from .trees import Tree

Verb = tuple[str, str, str, str]
Modifier = tuple[str, ...]
"""The sort of a modifier, and what decides which phrases could take it."""
MOST_WORDS = 20
NOUNS = {
    "PERSON": ("from:PLACE of:PLACE with:PART", "baker boy cook doctor farmer girl king nurse painter sailor teacher"),
    "ANIMAL": ("of:PERSON with:PART", "bear bird cat cow dog goat horse lion"),
    "FOOD": ("with:FOOD from:PLACE for:ANIMAL", "apple cake egg onion pie soup"),
    "TOOL": ("of:PERSON for:FOOD", "camera fork hammer key lamp pen rope spoon"),
    "TEXT": ("about:PERSON about:ANIMAL about:PLACE by:PERSON from:PERSON", "book letter map poem report song"),
    "PLACE": (
        "near:PLACE behind:PLACE of:PERSON",
        "barn forest garden harbour house kitchen market river tower village",
    ),
    "PART": ("", "beard coat collar hat nose scar tail"),
}
"""For each kind of nouns, what they can take, and the nouns themselves."""
VERBS = [
    ("see saw", "PERSON ANIMAL", "PERSON ANIMAL PLACE TOOL", "with:TOOL from:PLACE"),
    ("watch watched", "PERSON ANIMAL", "PERSON ANIMAL PLACE", "with:TOOL from:PLACE"),
    ("chase chased", "PERSON ANIMAL", "PERSON ANIMAL", "through:PLACE"),
    ("follow followed", "PERSON ANIMAL", "PERSON ANIMAL", "through:PLACE to:PLACE"),
    ("help helped", "PERSON", "PERSON ANIMAL", "with:TEXT"),
    ("like liked", "PERSON ANIMAL", "PERSON ANIMAL FOOD TEXT PLACE", ""),
    ("eat ate", "PERSON ANIMAL", "FOOD", "with:TOOL in:PLACE"),
    ("cook cooked", "PERSON", "FOOD", "for:PERSON in:PLACE with:TOOL"),
    ("buy bought", "PERSON", "FOOD TOOL TEXT ANIMAL", "for:PERSON in:PLACE"),
    ("carry carried", "PERSON", "FOOD TOOL TEXT", "to:PLACE through:PLACE"),
    ("pick picked up", "PERSON", "FOOD TOOL TEXT ANIMAL", "in:PLACE"),
    ("put put down", "PERSON", "FOOD TOOL TEXT", "in:PLACE near:PLACE"),
    ("bring brought in", "PERSON", "FOOD TOOL ANIMAL", "for:PERSON from:PLACE"),
    ("give gave", "PERSON", "FOOD TOOL TEXT", "to:PERSON to:ANIMAL"),
    ("send sent", "PERSON", "TEXT TOOL", "to:PERSON to:PLACE"),
    ("show showed", "PERSON", "TEXT TOOL PLACE", "to:PERSON"),
    ("write wrote", "PERSON", "TEXT", "to:PERSON with:TOOL in:PLACE"),
    ("study studied", "PERSON", "TEXT ANIMAL", "in:PLACE with:PERSON"),
    ("find found", "PERSON ANIMAL", "FOOD TOOL TEXT PERSON", "in:PLACE near:PLACE"),
    ("hide hid", "PERSON", "FOOD TOOL TEXT", "from:PERSON in:PLACE"),
    ("paint painted", "PERSON", "PERSON ANIMAL PLACE", "for:PERSON with:TOOL"),
    ("visit visited", "PERSON", "PERSON PLACE", "with:PERSON"),
    ("feed fed", "PERSON", "ANIMAL", "with:FOOD"),
    ("describe described", "PERSON", "PLACE PERSON ANIMAL", "to:PERSON in:TEXT"),
    ("sleep slept", "PERSON ANIMAL", "", "in:PLACE near:PLACE"),
    ("wait waited", "PERSON ANIMAL", "", "for:PERSON behind:PLACE"),
    ("walk walked", "PERSON ANIMAL", "", "to:PLACE through:PLACE from:PLACE"),
    ("bark barked", "ANIMAL", "", "at:PERSON at:ANIMAL"),
    ("sing sang", "PERSON", "", "about:PERSON about:PLACE with:PERSON"),
    ("talk talked", "PERSON", "", "about:PERSON about:ANIMAL to:PERSON"),
    ("work worked", "PERSON", "", "in:PLACE with:TOOL for:PERSON"),
    ("smile smiled", "PERSON", "", "at:PERSON"),
]
"""Forms (base, past, particle), kinds of its subject and of its object, and what it can take."""
SAY = [(forms, "PERSON", "", "") for forms in ("claim claimed", "know knew", "say said", "think thought")]
WANT = [(forms, "PERSON ANIMAL", "", "") for forms in ("need needed", "try tried", "want wanted")]
BE = [("be was", "PERSON ANIMAL", "", "")]
"""Verbs with a clause (SAY), with an infinitive (WANT), and with an adjective (BE)."""
TIMES = {"past": ("yesterday", "earlier"), "present": ("now", "today"), "future": ("tomorrow", "soon")}
ADJECTIVES = "big brave clever happy hungry old quiet sad small strong tired young".split()
NAMES = "anna clara david emma frank henry iris paul".split()


@dataclass
class Phrase:
    """A part of a tree, and what decides whether it can take a modifier."""

    label: str
    children: "list[Phrase | str]"
    kind: str = ""  # of its noun
    takes: str = ""
    number: str = ""
    tense: str = ""
    subject: str = ""  # kind of a verb's subject

    def tree(self) -> Tree:
        return Tree(self.label, tuple(c if isinstance(c, str) else c.tree() for c in self.children))

    def right_edge(self) -> "Iterator[Phrase]":
        """Yield it and all phrases that end with it, the largest first."""
        yield self
        if isinstance(self.children[-1], Phrase):
            yield from self.children[-1].right_edge()

    def can_take(self, modifier: Modifier) -> bool:
        sort, *wanted = modifier
        if sort == "phrase":
            return wanted[0] in self.takes.split()
        if sort == "relative":
            return self.kind in wanted[0].split() and wanted[1] in ("", self.number)
        if sort == "noun":
            return self.kind == wanted[0]
        if sort == "verb":
            agrees = self.tense == wanted[0] and (wanted[0] != "present" or self.number == wanted[1])
            return agrees and self.subject in wanted[2].split()
        return bool(self.tense) and self.tense == wanted[0]  # a time


def free(nearer: Iterable[Phrase], modifier: Modifier) -> bool:
    """True if no phrase could take a modifier, of those that are nearer to it than its own."""
    return not any(phrase.can_take(modifier) for phrase in nearer)


class Grammar:
    """Draws sentences by the seed; the deeper a phrase, the smaller is the chance that more is in it."""

    def __init__(self, seed: int):
        self.draw = random.Random(seed)

    def chance(self, probability: float, depth: int = 0) -> bool:
        return self.draw.random() < probability * 0.7**depth

    def word(self, tag: str, words: Sequence[str]) -> Phrase:
        return Phrase(tag, [self.draw.choice(words)])

    def sentence(self) -> Tree:
        parts = self.clause(0).children
        if self.chance(0.12):
            first = self.draw.choice((Phrase("WHADVP", [Phrase("WRB", ["when"])]), Phrase("IN", ["because"])))
            parts = [Phrase("SBAR", [first, self.clause(1)]), Phrase(",", [","]), *parts]
        return Phrase("S", [*parts, Phrase(".", ["."])]).tree()

    def clause(self, depth: int) -> Phrase:
        subject = self.noun_phrase("PERSON PERSON ANIMAL", depth + 1, pronouns=True)
        parts = [subject]
        if self.chance(0.12, depth):
            parts.append(Phrase("ADVP", [self.word("RB", ("always", "never", "often"))]))
        tense = self.draw.choice(("present", "present", "past", "past", "future"))
        return Phrase("S", [*parts, self.verb_phrase(subject.kind or "PERSON", subject.number, tense, depth)])

    def noun_phrase(self, kinds: str, depth: int, pronouns: bool = False) -> Phrase:
        kind, number = self.draw.choice(kinds.split()), self.draw.choice(("sg", "sg", "pl"))
        if kind == "PERSON" and self.chance(0.16):  # these take nothing
            if pronouns and self.chance(0.5):
                return Phrase("NP", [Phrase("PRP", ["she" if number == "sg" else "they"])], number=number)
            return Phrase("NP", [self.word("NNP", NAMES)], number="sg")
        takes, nouns = NOUNS[kind]
        noun = self.draw.choice(nouns.split())
        words = [Phrase("NN", [noun]) if number == "sg" else Phrase("NNS", [f"{noun}s"])]
        if self.chance(0.25):
            words.insert(0, self.word("JJ", ADJECTIVES))
        if number == "sg" or self.chance(0.7):
            words.insert(0, self.word("DT", ("the", "the", "a" if number == "sg" else "some")))
        whole = head = Phrase("NP", words, kind, takes, number)
        parts = [head]
        while takes and self.chance(0.62, depth):
            modifier, phrase = self.noun_modifier(head, depth + 1)
            if len(parts) == 1 or free(parts[-1].right_edge(), modifier):
                parts.append(phrase)
                whole = Phrase("NP", parts, kind, takes, number)
        if self.chance(0.2, depth) and free(islice(whole.right_edge(), 1, None), ("noun", kind)):
            other = self.noun_phrase(kind, depth + 1)
            if other.kind:
                return Phrase("NP", [whole, Phrase("CC", ["and"]), other], kind, number="pl")
        return whole

    def noun_modifier(self, head: Phrase, depth: int) -> tuple[Modifier, Phrase]:
        """Draw a prepositional phrase, or a relative clause of which the noun is subject or object."""
        sort = self.draw.choice(("phrase", "phrase", "phrase", "subject", "object", "reduced"))
        if sort == "phrase" or (sort == "subject" and head.kind not in ("PERSON", "ANIMAL")):
            return self.prepositional_phrase(head.takes.split(), depth)
        side = 1 if sort == "subject" else 2
        verb = self.draw.choice([verb for verb in VERBS if head.kind in verb[side].split()])
        past = verb[0].split()[1]
        that = Phrase("WHNP", [Phrase("WDT", ["that"])])
        if sort == "subject":
            tense = self.draw.choice(("present", "present", "past"))
            phrase = self.verb_phrase(head.kind, head.number, tense, depth, verb)
            modifier = ("relative", verb[1], head.number if tense == "present" else "")
            return modifier, Phrase("SBAR", [that, Phrase("S", [phrase])])
        agent = self.noun_phrase(verb[1], depth)
        if sort == "reduced" and past.endswith("ed") and len(verb[0].split()) == 2:
            by = Phrase("PP", [Phrase("IN", ["by"]), agent])
            return ("relative", verb[2], ""), Phrase("VP", [Phrase("VBN", [past]), by])
        phrase = self.verb_phrase(agent.kind or "PERSON", agent.number, "past", depth, (*verb[:2], "", verb[3]))
        return ("relative", verb[2], ""), Phrase("SBAR", [that, Phrase("S", [agent, phrase])])

    def prepositional_phrase(self, takes: list[str], depth: int) -> tuple[Modifier, Phrase]:
        """Draw one of the PPs that are taken, such as "with:TOOL"."""
        preposition, kind = (chosen := self.draw.choice(takes)).split(":")
        tag = "TO" if preposition == "to" else "IN"
        return ("phrase", chosen), Phrase("PP", [Phrase(tag, [preposition]), self.noun_phrase(kind, depth)])

    def verb_phrase(self, subject: str, number: str, tense: str, depth: int, verb: Verb | None = None) -> Phrase:
        """Draw a VP with the verb that is given, or with one or two of which `subject` can be the subject."""
        whole = self.single_verb_phrase(subject, number, tense, depth, verb or self.verb_of(subject, depth))
        if verb is None and self.chance(0.2, depth):
            other = self.verb_of(subject, depth)
            if free(islice(whole.right_edge(), 1, None), ("verb", tense, number, other[1])):
                second = self.single_verb_phrase(subject, number, tense, depth + 1, other)
                whole = Phrase("VP", [whole, Phrase("CC", ["and"]), second])
        return Phrase("VP", [Phrase("MD", ["will"]), whole]) if tense == "future" else whole

    def verb_of(self, subject: str, depth: int) -> Verb:
        choices = SAY + WANT + BE if self.chance(0.35, depth) else VERBS
        return self.draw.choice([verb for verb in choices if subject in verb[1].split()])

    def single_verb_phrase(self, subject: str, number: str, tense: str, depth: int, verb: Verb) -> Phrase:
        (base, past, *particle), _, objects, takes = verb[0].split(), *verb[1:]
        tag = {"present": "VBZ" if number == "sg" else "VBP", "past": "VBD"}.get(tense, "VB")
        form = {"VBZ": third_person(base), "VBD": past}.get(tag, base)
        if verb in BE:
            form = {"VBZ": "is", "VBP": "are", "VBD": "was" if number == "sg" else "were", "VB": "be"}[tag]
        parts = [Phrase(tag, [form]), *(Phrase("PRT", [Phrase("RP", [word])]) for word in particle)]
        if verb in SAY:
            that = [Phrase("IN", ["that"])] * self.chance(0.7)
            parts.append(Phrase("SBAR", [*that, self.clause(depth + 1)]))
        elif verb in WANT:
            inner = self.verb_phrase(subject, number, "base", depth + 1)
            parts.append(Phrase("S", [Phrase("VP", [Phrase("TO", ["to"]), inner])]))
        elif verb in BE:
            very = [Phrase("RB", ["very"])] if self.chance(0.3) else []
            parts.append(Phrase("ADJP", [*very, self.word("JJ", ADJECTIVES)]))
        elif objects:
            parts.append(self.noun_phrase(objects, depth + 1))
        left = takes.split()
        while self.chance(0.65, depth):
            if self.chance(0.3) and tense in TIMES and parts[-1].label != "ADVP":
                modifier: Modifier = ("time", tense)
                phrase = Phrase("ADVP", [self.word("RB", TIMES[tense])])
            elif left:
                modifier, phrase = self.prepositional_phrase(left, depth + 1)
                left.remove(modifier[1])
            else:
                break
            if free(parts[-1].right_edge(), modifier):
                parts.append(phrase)
        return Phrase("VP", parts, takes=takes, number=number, tense=tense, subject=subject)


def third_person(verb: str) -> str:
    """Return the form of a verb with a singular subject in the present."""
    if verb[-1] == "y" and verb[-2] not in "aeiou":
        return f"{verb[:-1]}ies"
    return f"{verb}es" if verb.endswith(("s", "x", "ch", "sh")) else f"{verb}s"


def generate(count: int, seed: int) -> Iterator[Tree]:
    """Yield trees of different sentences of at most MOST_WORDS words."""
    grammar, seen = Grammar(seed), set()
    while len(seen) < count:
        words = tuple((tree := grammar.sentence()).words())
        if len(words) <= MOST_WORDS and words not in seen:
            seen.add(words)
            yield tree


def write_treebank(folder: Path, train: int, test: int, seed: int) -> dict[Path, list[Tree]]:
    """Write so many trees into `train.mrg` and `test.mrg` of a folder, and return those of each file."""
    trees = generate(train + test, seed)
    parts = {folder / f"{name}.mrg": list(islice(trees, count)) for name, count in (("train", train), ("test", test))}
    for path, part in parts.items():
        write_whole(path, "".join(f"{tree}\n" for tree in part))
    return parts
