"""The seed job in Python: `torchrun seed_torch.py SNAPSHOT EPOCHS`."""
import sys

import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

SNAPSHOT, EPOCHS, SAVE_EVERY, BATCH = sys.argv[1], int(sys.argv[2]), 10, 32

dist.init_process_group("gloo")
torch.manual_seed(42)
x = torch.randn(2048, 2)
y = x @ torch.tensor([[-2.0], [3.4]]) + 4.2 + 0.01 * torch.randn(2048, 1)
sampler = DistributedSampler(TensorDataset(x, y))
loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, sampler=sampler)
model = DDP(torch.nn.Linear(2, 1), gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, fused=True)
started = False
for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    for a, b in loader:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(a), b).backward()
        optimizer.step()
        if not started:
            started = True
            print("first step of rank", dist.get_rank(), flush=True)
    if dist.get_rank() == 0:
        print(f"epoch {epoch + 1:>3}", flush=True)
    if dist.get_rank() == 0 and (epoch + 1) % SAVE_EVERY == 0:
        torch.save({"MODEL_STATE": model.module.state_dict(), "EPOCHS_RUN": epoch}, SNAPSHOT)
dist.destroy_process_group()
