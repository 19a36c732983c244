"""Names of months and weekdays, as files of several languages write them."""

import re
import unicodedata

# English, German, French, Spanish, Italian, Portuguese and Dutch, which give no name to two months
MONTHS = """
january jan januar janner janvier janv enero ene gennaio gen janeiro januari
february feb februar fevrier fevr fev febrero febbraio fevereiro februari
march mar marz mrz mars marzo marco maart mrt
april apr avril avr abril abr aprile
may mai mayo maggio mag maio mei
june jun juni juin junio giugno giu junho
july jul juli juillet juil julio luglio lug julho
august aug aout agosto ago augustus
september sep sept septembre septiembre settembre set setembro
october oct oktober okt octobre octubre ottobre ott outubro out
november nov novembre noviembre novembro
december dec dezember dez decembre diciembre dic dicembre dezembro
"""
NUMBERS = {name: month for month, names in enumerate(MONTHS.strip().splitlines(), 1) for name in names.split()}
WEEKDAY = re.compile(r"(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?[.,]?\s+", re.IGNORECASE)
# 1er janvier, 1º de enero de 2024
BESIDE = re.compile(r"(?<=\d)(?:er|st|nd|rd|th|º|ª|°)(?=\W|$)|(?<=\W)(?:de|of)\s", re.IGNORECASE)


def month_of(name: str) -> int | None:
    """The month that a name means, with or without its accents; None where it means none."""
    letters = unicodedata.normalize("NFKD", name.lower())
    return NUMBERS.get("".join(letter for letter in letters if not unicodedata.combining(letter)))


def bare(date: str) -> str:
    """A date without its weekday and the words between its parts."""
    weekday = WEEKDAY.match(date)
    return BESIDE.sub("", date[weekday.end() :] if weekday else date)
