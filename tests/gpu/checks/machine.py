"""The machine, the libraries, and the runtime's own tests."""
import re

from .base import check, gpu_only, need


@check(30, "no shared library is missing, and NCCL is the one that came with the parts")
def libraries(t):
    for file in [*sorted(t.bin.iterdir()), t.machine.torch / "lib/libtorch_cuda.so"]:
        output = t.run("ldd", "-r", file, code=None)
        missing = re.search(r".*(not found|undefined symbol|no version).*", output)
        need(not missing, f"{file.name}: {missing and missing[0]}")
    nccl = re.search(r"libnccl.so.2 => (\S+)", t.run("ldd", t.bin / "nccl"))
    need(nccl, "no libnccl is found")
    version = t.run(t.python, "-c", "import ctypes; v = ctypes.c_int()\n"
                    "ctypes.CDLL('libnccl.so.2').ncclGetVersion(ctypes.byref(v)); print(v.value)")
    t.say(f"NCCL {version.strip()} in {nccl[1]}")


@check(20, "the launcher sees the GPU through NVML")
def gpus(t):
    gpu_only(t)
    t.say(t.run(t.bin / "cargo-ddp", "ddp", "gpus").strip().splitlines()[-1])


@check(40, "NCCL is built in, and a group of one connects")
def nccl(t):
    gpu_only(t)
    t.say(t.run(t.bin / "nccl").strip().splitlines()[-1])


@check(90, "the runtime's own GPU tests pass")
def runtime_tests(t):
    gpu_only(t)
    output = t.run(t.bin / "runtime_tests", "--ignored", "--test-threads", "1", env={"RUST_BACKTRACE": "1"}, code=None)
    failed = re.findall(r"^test (\S+) \.\.\. FAILED", output, re.M)
    t.say((re.findall(r"^test result: .*", output, re.M) or ["no result"])[-1][:150])
    need(t.code == 0, f"exit code {t.code}, failed: {' '.join(failed) or 'see the log'}")
