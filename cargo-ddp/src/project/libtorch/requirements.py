#!/usr/bin/env python3
"""Writes requirements-cpu.txt and requirements-cuda.txt, which `cargo ddp setup` gives to pip: every package with its
version and the SHA-256 of its wheels, for all Pythons and processors below. To be run when libtorch's version changes.

It asks pip which packages torch needs, and downloads none. Python 3.10 comes first, as what supports it supports the
later ones, too; only numpy has no version for all."""

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

# "t" is the build without a global lock, whose packages are others.
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.14t"]
PROCESSORS = ["x86_64", "aarch64"]
NUMPY = {"3.10": "2.2.6"}
NUMPY_LATER = "2.4.6"
# The CUDA runtime and CUPTI are linked by libtorch_cpu.so itself.
CPU = ["torch", "nvidia-cuda-runtime", "nvidia-cuda-cupti"]
ASKED = ["torch==2.13.0", "safetensors", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"]
# Headers that cuda_runtime.h includes.
ASKED += ["nvidia-cuda-crt==13.0.88", "nvidia-cuda-cccl==13.0.85"]


def resolve(python, processor, constraints):
    """(name, version, hash) of what pip would install."""
    tags = [f"manylinux_2_{minor}_{processor}" for minor in range(39, 4, -1)]
    tags += [f"{name}_{processor}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-input"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={python.rstrip('t')}", "--target=unused"]
    abis = ["cp" + python.replace(".", ""), "none"] + ([] if python.endswith("t") else ["abi3"])
    command += [f"--abi={abi}" for abi in abis]
    command += [f"--platform={tag}" for tag in tags]
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder, "constraints.txt")
        pinned.write_text("".join(f"{name}=={version}\n" for name, version in constraints.items()))
        numpy = f"numpy=={NUMPY.get(python, NUMPY_LATER)}"
        subprocess.run([*command, "--constraint", pinned, "--report", f"{folder}/report", *ASKED, numpy], check=True)
        report = json.loads(Path(folder, "report").read_text())
    for package in report["install"]:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        yield name, package["metadata"]["version"], package["download_info"]["archive_info"]["hashes"]["sha256"]


def main():
    hashes = defaultdict(set)
    constraints = {}
    for processor in PROCESSORS:
        for python in PYTHONS:
            for name, version, digest in resolve(python, processor, constraints):
                if name != "numpy":
                    constraints.setdefault(name, version)
                hashes[name, version].add(digest)
    here = Path(__file__).parent
    for flavor, wanted in ("cpu", set(CPU)), ("cuda", {name for name, _ in hashes}):
        text = "# Written by requirements.py.\n"
        for (name, version), digests in sorted(hashes.items()):
            if name not in wanted:
                continue
            marker = ""
            if name == "numpy":
                marker = ' ; python_version < "3.11"' if version in NUMPY.values() else ' ; python_version >= "3.11"'
            text += f"{name}=={version}{marker}"
            text += "".join(f" \\\n    --hash=sha256:{digest}" for digest in sorted(digests)) + "\n"
        (here / f"requirements-{flavor}.txt").write_text(text)


if __name__ == "__main__":
    main()
