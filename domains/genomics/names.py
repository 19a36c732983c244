"""What the line above a sequence says: its id, its class, and which classes may be one."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, count

LONGEST = 200  # characters of a word: file systems take 255
ENDS = r";(?=\s|$|[^\s;=]+=)"  # the semicolon that ends a value, and none of a lineage such as Bacteria;Firmicutes
NEXT = r";\s*(?=[^\s;=]+=|$)"  # the same between bars, where a blank ends no rank of Bacteria; Firmicutes either
BRACKETS = re.compile(r"\[([^\[\]=]+)=((?:[^\[\]]|\[[^\[\]]*\])*)\]")  # [protein=oxidase [NAD]], NCBI's
QUOTED = re.compile(r"""(?:^|(?<=[\s;]))([^\s;=]+)=("[^"]*"|'[^']*')""")  # organism="Homo sapiens"
ENDED = re.compile(rf"(?:^|(?<=[\s;]))([^\s;=]+)=((?:[^;=]|(?!{ENDS});)*){ENDS}")  # organism=Homo sapiens;
LAST = re.compile(r";\s*([^\s;=]+)=([^;=]*)$")  # the last of x=a b;organism=Homo sapiens
RANK = re.compile(r"(.+);(\d+)")  # 1;2 or Lineage;2: a field or key, and which rank of its lineage
PLAIN = re.compile(rf"(?:^|(?<=[\s;]))([^\s;=]+)=((?:(?!{ENDS})\S)*)")  # class=x, which a blank ends


def id_of(header: str) -> str:
    """The first word of a header; where bars part it, up to the first blank behind the first bar.

    GISAID's names hold blanks: `hCoV-19/South Africa/1/2020|EPI_ISL_1|2020-03-01`. A blank before the first bar ends
    the id: `NC_045512.2 |Severe acute ...`, of NCBI Virus. Empty where there is none.
    """
    name, bar, rest = header.partition("|")
    if not bar:
        return first_word(header)
    if name[-1:].isspace():
        return name.strip()
    word = first_word(rest) if rest[:1].strip() else ""
    return f"{name.lstrip()}|{word}"


def first_word(text: str) -> str:
    """Up to the first blank; empty where there is no word."""
    return next(iter(text.split(maxsplit=1)), "")


def header_label(header: str, wanted: str) -> str | None:
    """Field of a header; None where it has none.

    Args:
        header: the line without its >.
        wanted: a number: 0 is the id, or a lineage with which the header begins. Where a header has bars, they alone
            part the fields; else a lineage (`Bacteria;Firmicutes;Bacillus`) is field 1 as a whole, and other words are
            a field each. `1-` is all from field 1 on. Or a key, of `key=value`, `key=value;`, `[key=value]` or
            `key="value"`; only in the latter three, and between bars, a value may hold blanks. `1;2` is the second rank
            of the lineage in field 1, and `Lineage;2` of that behind a key.
    """
    if ranked := RANK.fullmatch(wanted):
        lineage = header_label(header, ranked[1])
        ranks = [""] if lineage is None else ["", *(rank.strip() for rank in lineage.split(";"))]  # counted from 1
        return ranks[int(ranked[2])] or None if int(ranked[2]) < len(ranks) else None
    place = re.fullmatch(r"(\d+)(-?)", wanted)
    if place is None:
        return _value(header, wanted)
    fields = _fields(header)
    number = int(place[1])
    if number >= len(fields):
        return None
    if place[2]:
        return ("|" if "|" in header else " ").join(fields[number:])
    return fields[number] or None


def _fields(header: str) -> list[str]:
    if "|" in header:
        return [field.strip() for field in header.split("|")]
    words = header.split()
    if ";" in header.strip()[: len(words[0]) - 1 if words else 0] and "=" not in header:
        return [header.strip()]  # all of it is a lineage, as in the training sets of DADA2, and its names hold blanks
    text = header.strip()[len(words[0]) :].strip() if words else ""
    if ";" in text and "=" not in text:  # a lineage, whose names hold blanks
        return [words[0], text]
    return words


def _value(header: str, key: str) -> str | None:
    for field in header.split("|"):
        name, equals, value = field.strip().partition("=")
        if "|" in header and equals and name == key:  # between bars
            return _bare(re.split(NEXT, value)[0]) or None
        behind = field[len(first_word(field)) :]  # a blank ends what stands in the first word, the id
        for pattern, text in ((BRACKETS, field), (QUOTED, field), (ENDED, field), (LAST, behind), (PLAIN, field)):
            for name, value in pattern.findall(text):
                if name.strip() == key:
                    return _bare(re.sub(r";$", "", value.strip())) or None
    return None


def _bare(value: str) -> str:
    """A value without blanks, and without a pair of quotes, around it."""
    return re.sub(r"""^(["'])(.*)\1$""", r"\2", value.strip()).strip()


def cut_short(headers: Iterable[str], wanted: str) -> str:
    """A warning where a blank ended a class that probably goes on (`Clostridium` of `Clostridium butyricum`), or "".

    It does where fewer classes come out than there are texts from there on, and each of these stands twice on average:
    what numbers the records, such as a place on a chromosome, does not. A rank, and all from a field on, no blank ends.
    """
    if RANK.fullmatch(wanted) or re.fullmatch(r"\d+-", wanted):
        return ""
    short: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    example = ("", "")
    for header in headers:
        label = header_label(header, wanted)
        if label is None or "|" in header or " " in label:
            continue
        if wanted.isdigit():
            text = " ".join(header.split()[int(wanted) :]) if wanted != "0" else label
        else:
            text = header[header.find(label, header.find(f"{wanted}=")) :]
        text = re.split(rf"{ENDS}|\]|\s\S+=", text)[0].strip()
        short[label] += 1
        whole[text] += 1
        if text != label:
            example = (label, text)
    if len(whole) <= len(short) or 2 * len(whole) > whole.total():
        return ""
    cure = f"{wanted}- takes all that follows" if wanted.isdigit() else f"write [{wanted}={example[1]}]"
    return (
        f"header field {wanted} makes {len(short)} classes of {len(whole)} names, such as {example[0]!r} of "
        f"{example[1]!r}: a blank ends a field; {cure}"
    )


def alike(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that differ only in blanks, signs that nobody sees (U+200B), case, or how a letter (é) or a
    number (1, 01, 1.0) is written.
    """
    found: dict[str | float, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        seen = "".join(letter for letter in name if unicodedata.category(letter) != "Cf" and not letter.isspace())
        letters = unicodedata.normalize("NFKC", seen).casefold()
        number = re.fullmatch(r"[+-]?\d+(\.\d*)?", letters)
        found[float(letters) if number else letters].append(name)
    return [group for group in found.values() if len(group) > 1]


def numbered(name: str, seen: Counter[str]) -> str:
    """An id, with a number behind where `seen`, in which it is counted, had it before: a, a#2, a#3."""
    seen[name] += 1
    return name if seen[name] == 1 else numbered(f"{name}#{seen[name]}", seen)


def word_of(name: str, taken: set[str], kept: str = "._-") -> str:
    """What a file or a key may be called for a name: letters, digits and `kept`, and no other's word, in either case.

    Args:
        name: any.
        taken: words so far, in lower case; the new one is added.
        kept: other characters that are allowed.
    """
    word = re.sub(rf"[^A-Za-z0-9{kept}]", "_", name)[:LONGEST]
    numbered = (f"{word}_{number}" for number in count(2))
    fresh = next(text for text in chain([word], numbered) if text.lower() not in taken)
    taken.add(fresh.lower())
    return fresh
