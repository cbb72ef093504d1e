"""Where copies of the same data differ. Each rank sends checksums of pieces, so that no message is large."""
import hashlib

SEGMENT = 32 << 20    # bytes whose checksums are in one message
# Sizes of pieces: the first message has the checksums of a segment's, the next one those of the first piece that differs.
PIECES = (64 << 10, 1 << 10)


def checksums(read, start, size, piece):
    """The checksum of each piece of `size` bytes from `start`; with 0 for `piece`, the bytes themselves. `read` reads bytes, from
    (offset, size)."""
    if not piece:
        return read(start, size).hex()
    return [hashlib.blake2b(read(at, min(piece, start + size - at)), digest_size=8).hexdigest()
            for at in range(start, start + size, piece)]


def first_difference(size, ask):
    """The offset of the first smallest piece that is not the same everywhere, and the bytes there by rank; or None. `ask` has the
    arguments of `checksums` but the first, and returns the answers by rank."""
    for segment in range(0, size, SEGMENT):
        start, length = segment, min(SEGMENT, size - segment)
        for piece in PIECES:
            columns = enumerate(zip(*ask(start, length, piece).values()))
            differs = next((n for n, column in columns if len(set(column)) > 1), None)
            if differs is None:
                break
            length = min(piece, length - differs * piece)
            start += differs * piece
        else:
            return start, {rank: bytes.fromhex(text) for rank, text in ask(start, length, 0).items()}
    return None


def first_element(copies, size):
    """The number of the first element, of `size` bytes, that is not the same in all copies, or None."""
    length = min(map(len, copies))
    return next((at // size for at in range(0, length, size) if len({copy[at:at + size] for copy in copies}) > 1), None)
