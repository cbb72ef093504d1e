"""The template `mingpt` in Python: the same GPT, data, optimizer and schedule, with PyTorch's DDP on Gloo, under torchrun.

    python -m torch.distributed.run --standalone --nproc_per_node=2 mingpt.py PROJECT SNAPSHOT STEPS

trains on PROJECT/data/text.txt from the first weights in SNAPSHOT/model.safetensors, with the settings in
SNAPSHOT/state.json and below, and prints each step's loss, the mean over the ranks, as the template does.
"""
import json, math, os, sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data.distributed import DistributedSampler

project, snapshot, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
BATCH, SEED, LR, WARM_UP, DECAY, CLIP, TRUNCATE = 8, 1, 0.003, 10, 0.1, 1.0, 0.02
config = json.load(open(os.path.join(snapshot, "state.json")))["states"]["value.gpt"]


class Attention(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(n, 3 * n), nn.Linear(n, n)

    def forward(self, x):
        batch, time, n = x.shape
        q, k, v = self.c_attn(x).view(batch, time, 3, config["n_head"], -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(batch, time, n))


class MLP(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(n, 4 * n), nn.Linear(4 * n, n)

    def forward(self, x):
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = nn.LayerNorm(n), Attention(n), nn.LayerNorm(n), MLP(n)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        n, vocabulary = config["n_embd"], len(config["vocabulary"])
        self.wte, self.wpe = nn.Embedding(vocabulary, n), nn.Embedding(config["block_size"], n)
        self.h = nn.ModuleList(Block(n) for _ in range(config["n_layer"]))
        self.ln_f, self.lm_head = nn.LayerNorm(n), nn.Linear(n, vocabulary, bias=False)

    def forward(self, x):
        x = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def mix(state):
    z, mask = state + 0x9E3779B97F4A7C15, 2**64 - 1
    z = ((z & mask) ^ ((z & mask) >> 30)) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & mask
    return z ^ (z >> 31)


def sample_seed(*parts):
    mixed = 0
    for part in parts:
        mixed = mix(mixed ^ part)
    return mixed


dist.init_process_group("gloo")
with open(os.path.join(project, "data/text.txt"), newline="") as file:
    text = file.read()
assert "".join(sorted(set(text))) == config["vocabulary"]
tokens = [config["vocabulary"].index(c) for c in text[: int(len(text) * TRUNCATE)]]
train, block = torch.tensor(tokens[: int(len(tokens) * 0.9)]), config["block_size"]
windows = len(train) // block - 1

model = GPT()
model.load_state_dict(load_file(os.path.join(snapshot, "model.safetensors")))
ddp = DistributedDataParallel(model, gradient_as_bucket_view=True)
decayed = [p for name, p in model.named_parameters() if p.dim() == 2 and not name.startswith("w")]
rest = [p for name, p in model.named_parameters() if p.dim() != 2 or name.startswith("w")]
groups = [dict(params=decayed, weight_decay=DECAY), dict(params=rest, weight_decay=0.0)]
optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), fused=True)
sampler = DistributedSampler(range(windows), seed=SEED)
per_epoch = math.ceil(len(sampler) / BATCH)
epochs = steps // per_epoch


def schedule(step, all_steps=epochs * per_epoch):
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    done = (step - WARM_UP) / max(all_steps - WARM_UP, 1)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * min(done, 1.0)))


scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
step = 0
for epoch in range(epochs):
    sampler.set_epoch(epoch)
    skipped = sample_seed(SEED, epoch, 0) % block
    indices = list(sampler)
    for start in range(0, len(indices), BATCH):
        at = [skipped + i * block for i in indices[start : start + BATCH]]
        x = torch.stack([train[a : a + block] for a in at])
        y = torch.stack([train[a + 1 : a + 1 + block] for a in at])
        optimizer.zero_grad()
        loss = F.cross_entropy(ddp(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        step += 1
        mean = loss.detach().double()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            os.write(1, b"step %d  loss %.6f\n" % (step, mean.item() / dist.get_world_size()))
dist.barrier()
os._exit(0)  # at exit, torch sometimes aborts ("terminate called without an active exception")
