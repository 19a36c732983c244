"""What stands on a page for each token is the text, no more and no less."""

from data_prep.tokenizer import load
from domains.text.surprise import pieces_of


def test_a_character_of_several_tokens_stands_at_the_first() -> None:
    text = "a é☃\nb"
    encoded = load("byte").encode(text, add_special_tokens=False)
    pieces = pieces_of(text, encoded.offsets)
    assert pieces == ["a", " ", "é", "", "☃", "", "", "\n", "b"]


def test_a_blank_that_a_tokenizer_leaves_out_of_its_places_is_there() -> None:
    assert pieces_of("to be  or", [(0, 2), (3, 5), (7, 9)]) == ["to", " be", "  or"]
