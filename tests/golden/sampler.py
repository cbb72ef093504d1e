"""Indices of PyTorch's DistributedSampler: `python sampler.py < settings` prints a JSON list per line of JSON settings;
`python sampler.py --make FILE` writes settings and the CRC-32 of their indices (torch 2.13.0)."""
import itertools, json, sys, zlib

from torch.utils.data.distributed import DistributedSampler


def indices(s):
    sampler = DistributedSampler(range(s["len"]), num_replicas=s["replicas"], rank=s["rank"], shuffle=s["shuffle"],
                                 seed=s["seed"], drop_last=s["drop_last"])
    sampler.set_epoch(s["epoch"])
    return list(sampler)


def settings():
    """240 settings: odd lengths, more ranks than samples, large seeds, lengths beyond 2**16."""
    combinations = itertools.product([1, 2, 3, 7, 10, 64, 1000, 2048, 65537, 100003], [1, 2, 3, 8], [True, False], [True, False])
    out = []
    for i, (length, replicas, shuffle, drop_last) in enumerate(combinations):
        seeds = [0, 1, 42, 2**31 + 5, 2**63] if shuffle else [0]
        out.append(dict(len=length, replicas=replicas, rank=i % replicas, shuffle=shuffle, drop_last=drop_last,
                        seed=seeds[i % len(seeds)], epoch=i % 5))
    for i in range(80):
        out.append(dict(len=37 * i + 5, replicas=2 + i % 5, rank=i % (2 + i % 5), shuffle=True, drop_last=i % 3 == 0, seed=i, epoch=i // 7))
    return out


if len(sys.argv) > 1:
    with open(sys.argv[2], "w") as file:
        for s in settings():
            s["crc32"] = zlib.crc32(json.dumps(indices(s), separators=(",", ":")).encode())
            file.write(json.dumps(s) + "\n")
else:
    for line in sys.stdin:
        print(json.dumps(indices(json.loads(line)), separators=(",", ":")))
