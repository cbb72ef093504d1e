"""The seed job from command to exit: ours (already built, release) against Python's DDP under torchrun, in one run.

    python3 tests/bench/seed_job.py [--rounds 5]

Prints medians and their ratio, the launcher's own peak memory, and the time of `cargo ddp --help`. Needs
`cargo ddp setup --cuda` (Python's torch comes from there) and makes its project in target/bench/.
"""
import argparse, os, shutil, statistics, subprocess, sys, tempfile, time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cargo-ddp"
SITE = CACHE / "libtorch-2.13.0-cuda" / "site"
EPOCHS, SAVE_EVERY, BATCH, RANKS = 50, 10, 32, 2

PYTHON_JOB = f'''
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler
dist.init_process_group("gloo")
torch.manual_seed(42)
x = torch.randn(2048, 2)
y = x @ torch.tensor([[-2.0], [3.4]]) + 4.2 + 0.01 * torch.randn(2048, 1)
sampler = DistributedSampler(TensorDataset(x, y))
loader = DataLoader(TensorDataset(x, y), batch_size={BATCH}, sampler=sampler)
model = DDP(torch.nn.Linear(2, 1), gradient_as_bucket_view=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, fused=True)
for epoch in range({EPOCHS}):
    sampler.set_epoch(epoch)
    for a, b in loader:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(a), b).backward()
        optimizer.step()
    if dist.get_rank() == 0 and (epoch + 1) % {SAVE_EVERY} == 0:
        torch.save({{"MODEL_STATE": model.module.state_dict(), "EPOCHS_RUN": epoch}}, sys.argv[1])
dist.destroy_process_group()
'''


def clean_env(**extra):
    # Python may keep its byte code: without, each import of torch compiles it anew.
    dropped = ("OMP_NUM_THREADS", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")
    env = {k: v for k, v in os.environ.items() if k not in dropped}
    return env | extra


def ours_built():
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "cargo-ddp"], cwd=REPO, check=True)
    launcher = REPO / "target/release/cargo-ddp"
    project = REPO / "target/bench/seed"
    shutil.rmtree(project, ignore_errors=True)
    subprocess.run([launcher, "ddp", "new", project], check=True, capture_output=True)
    shutil.copy(REPO / "Cargo.lock", project)
    env = clean_env(CARGO_TARGET_DIR=str(REPO / "target/bench/target"))
    subprocess.run([launcher, "ddp", "run", "--release", "--nproc", "1", "--", "--help"], cwd=project, env=env, check=True,
                   stdout=subprocess.DEVNULL)
    return launcher, project, env


def seconds(command, **options):
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    if not (SITE / "torch").exists():
        sys.exit(f"no Python torch in {SITE}: run `cargo ddp setup --cuda` first")
    launcher, project, env = ours_built()

    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "train.py"
        script.write_text(PYTHON_JOB)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={RANKS}", str(script)]
        python_env = clean_env(PYTHONPATH=str(SITE))

        def run_ours(n):
            args = ["--total-epochs", str(EPOCHS), "--save-every", str(SAVE_EVERY), "--batch-size", str(BATCH)]
            run = [launcher, "ddp", "run", "--release", "--nproc", str(RANKS), "--", *args]
            return seconds(run + ["--snapshots", f"{folder}/ours-{n}"], cwd=project, env=env)

        def run_python(n):
            return seconds(torchrun + [f"{folder}/snapshot-{n}.pt"], env=python_env)

        run_python("warm"), run_ours("warm")  # Python's byte code, and both sides' files in memory
        ours, python = [], []
        for n in range(rounds):
            python.append(run_python(n))
            ours.append(run_ours(n))

        run = [launcher, "ddp", "run", "--release", "--nproc", str(RANKS), "--", "--total-epochs", "100000", "--snapshots", f"{folder}/memory"]
        job = subprocess.Popen(run, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in job.stdout:
            if "epoch  20" in line:
                break
        status = Path(f"/proc/{job.pid}/status").read_text()
        peak_mb = int(status.split("VmHWM:")[1].split()[0]) / 1000
        job.terminate(), job.stdout.read(), job.wait()

    help_ms = 1000 * statistics.median(seconds([launcher, "ddp", "--help"]) for _ in range(20))
    o, p = statistics.median(ours), statistics.median(python)
    print(f"seed job ({EPOCHS} epochs, {RANKS} ranks, Gloo), command to exit, median of {rounds} (min to max):")
    print(f"  cargo ddp run  {o:6.2f} s  ({min(ours):.2f} to {max(ours):.2f})")
    print(f"  torchrun       {p:6.2f} s  ({min(python):.2f} to {max(python):.2f})")
    print(f"  ratio          {p / o:6.2f}    (wanted: at least 4)")
    print(f"launcher's own peak memory   {peak_mb:.1f} MB  (wanted: below 15)")
    print(f"cargo ddp --help             {help_ms:.1f} ms  (wanted: below 50)")


main()
