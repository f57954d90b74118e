"""Coloured text for terminals, and texts cut where the colour changes."""

from extras.sampling.painted_text import paint, pieces


def test_paint_colours_each_line_separately() -> None:
    assert paint("ab\n\nc", "32") == "\x1b[32mab\x1b[0m\n\n\x1b[32mc\x1b[0m"
    assert paint("ab\n", "") == "ab\n"


def test_tokens_of_one_colour_are_decoded_together() -> None:
    decoded = []

    def decode(ids: list[int]) -> str:
        decoded.append(ids)
        return bytes(ids).decode()

    assert pieces([97, 0xC3, 0xA4, 98], ["", "red", "red", ""], decode) == [("a", ""), ("ä", "red"), ("b", "")]
    assert decoded == [[97], [0xC3, 0xA4], [98]]
