"""Samples per second through torch's DataLoader: `loader_torch.py SECONDS` prints a line for each dataset and setting.
Its Rust twin is `loader.rs`."""
import sys, time, warnings

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

ROWS, ROW_BATCH, IMAGES, IMAGE_BATCH = 1_000_000, 256, 4096, 64
WARM_UP_BATCHES = 20  # the clock starts after these
SECONDS = float(sys.argv[1])


class Images(Dataset):
    """Images of 3x224x224 that are computed from their index on access, with labels."""

    def __init__(self):
        self.noise = (torch.arange(3 * 224 * 224, dtype=torch.float32) * 0.618034).frac().view(3, 224, 224)
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        image = (self.noise * (index + 1)).frac_()
        return image.sub_(self.mean).div_(self.std), index % 1000


def samples_per_second(dataset, workers, prefetch=None, **options):
    loader = DataLoader(dataset, num_workers=workers, prefetch_factor=prefetch, persistent_workers=workers > 0, **options)
    batches = samples = 0
    while True:
        for _, labels in loader:
            batches += 1
            if batches <= WARM_UP_BATCHES:
                start = time.perf_counter()
                continue
            samples += len(labels)
            if time.perf_counter() - start >= SECONDS:
                return samples / (time.perf_counter() - start)


def main():
    warnings.filterwarnings("ignore", "This DataLoader will create")
    rows = TensorDataset(torch.rand(ROWS, 20), torch.randint(10, (ROWS,)))
    for workers, prefetch in ((0, None), (1, 2), (2, 2), (2, 8), (4, 2)):
        rate = samples_per_second(rows, workers, prefetch, batch_size=ROW_BATCH, shuffle=True)
        print(f"rows workers={workers},prefetch={prefetch} {rate:.0f}", flush=True)
    # The dataset indexed with a list per batch instead of sample by sample.
    for workers, prefetch in ((0, None), (1, 2), (2, 2)):
        sampler = BatchSampler(RandomSampler(rows), ROW_BATCH, drop_last=False)
        rate = samples_per_second(rows, workers, prefetch, sampler=sampler, batch_size=None)
        print(f"rows-by-batch workers={workers},prefetch={prefetch} {rate:.0f}", flush=True)
    for workers, prefetch in ((0, None), (1, 2), (2, 2), (2, 4), (4, 2)):
        rate = samples_per_second(Images(), workers, prefetch, batch_size=IMAGE_BATCH, shuffle=True)
        print(f"images workers={workers},prefetch={prefetch} {rate:.0f}", flush=True)
    image, label = Images()[41]
    print(f"image 41 has label {label} and mean {image.mean(dtype=torch.float64):.6f}")


main()
