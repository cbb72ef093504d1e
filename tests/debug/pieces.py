#!/usr/bin/env python3
"""The search for the first difference between copies, without lldb. The exit code is 0 if it finds it."""
import json, os, random, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../cargo-ddp/src/editor/debug/lldb"))
sys.dont_write_bytecode = True
import ddp_pieces
from ddp_pieces import checksums, first_difference, first_element

EACH = 4    # bytes of an element


def search(copies):
    """The number of the first element that differs."""
    def ask(start, size, piece):
        answers = {rank: checksums(lambda at, n: copy[at:at + n], start, size, piece) for rank, copy in enumerate(copies)}
        assert max(len(json.dumps(answer)) for answer in answers.values()) < 60_000, "an answer has to fit into a datagram"
        return answers

    found = first_difference(len(copies[0]), ask)
    if found is None:
        return None
    start, pieces = found
    assert sorted(pieces) == list(range(len(copies)))
    return start // EACH + first_element(list(pieces.values()), EACH)


def check(size, element, ranks):
    same = bytes(random.randrange(256) for _ in range(1 << 12)) * (size // (1 << 12) + 1)
    copies = [bytearray(same[:size]) for _ in range(ranks)]
    assert search(copies) is None, size
    odd = random.randrange(ranks)
    copies[odd][element * EACH + random.randrange(EACH)] ^= 1 << random.randrange(6)
    last = size - 1
    copies[odd][last] ^= 0x40    # a later one has no effect
    assert search(copies) == min(element, last // EACH), (size, element, ranks)


random.seed(14)
for size in (4, 64, 1024, 1028, 65_536, 65_540, 1_000_000):
    for element in {0, size // EACH // 2, size // EACH - 1}:
        for ranks in (2, 4):
            if size > 4 or element == 0:
                check(size, element, ranks)
for offset in (-EACH, 0, EACH):    # around the end of a message's segment
    check(ddp_pieces.SEGMENT + (1 << 16), (ddp_pieces.SEGMENT + offset) // EACH, 2)
print("pieces: ok")
