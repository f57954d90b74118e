"""Decoding of tokens that come one by one."""

from collections.abc import Iterable, Iterator

from extras.sampling.painted_text import Decode

INCOMPLETE = "\ufffd"  # what half a character decodes to


def text_pieces(tokens: Iterable[int], decode: Decode) -> Iterator[str]:
    """Yield the text of the tokens in pieces of complete characters; joined, they are the text of all tokens.

    A character of several tokens is yielded with the last of them. If the last character of all is incomplete, the last
    piece has U+FFFD for it, as `decode` has.
    """
    before: list[int] = []  # tokens of the previous piece: some tokenizers decode a first token without its space
    pending: list[int] = []
    piece, shown = "", 0  # shown: length of the text of `before`
    for token in tokens:
        pending.append(token)
        text = decode(before + pending)
        piece = text[shown:]
        if piece and not piece.endswith(INCOMPLETE):
            yield piece
            before, pending, piece = pending, [], ""
            shown = len(decode(before))
    if piece:
        yield piece
