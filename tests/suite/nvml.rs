//! A stub of the NVIDIA driver's library (NVML), which simulates a machine with four GPUs.

use std::process::Command;

use tempfile::{TempDir, tempdir};

/// What is asked of the library. GPU 1 is divided in two, GPU 3 is used by process 1, GPU 2
/// is an old one, and GPUs 0 and 1 do not read each other's memory.
const NVML: &str = r#"
#include <string.h>
#include <stdio.h>
typedef struct { char legacy[16]; unsigned domain, bus, device, id, sub; char bus_id[32]; } Pci;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned pid; unsigned long long used; unsigned instance, compute; } Process;
static char gpus[4], migs[2];
#define INDEX(device) ((int)((char*)(device) - gpus))
#define IS_MIG(device) ((char*)(device) >= migs && (char*)(device) < migs + 2)
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int code) { return "stand-in"; }
int nvmlDeviceGetCount_v2(unsigned* count) { *count = 4; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void** device) { *device = gpus + i; return i < 4 ? 0 : 2; }
int nvmlDeviceGetName(void* device, char* name, unsigned n) { strcpy(name, "Stand-in 9000"); return 0; }
int nvmlDeviceGetUUID(void* device, char* uuid, unsigned n) {
    if (IS_MIG(device)) sprintf(uuid, "MIG-%d-0e4b", (int)((char*)device - migs));
    else sprintf(uuid, "GPU-%d-0e4b", INDEX(device));
    return 0;
}
int nvmlDeviceGetMemoryInfo_v2(void* device, Memory* memory) {
    memory->total = 80000000000ull;
    memory->used = INDEX(device) == 3 ? 10200000000ull : 1000000;
    return 0;
}
int nvmlDeviceGetPciInfo_v3(void* device, Pci* pci) { sprintf(pci->bus_id, "0000FFFF:0%d:00.0", INDEX(device)); return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void* device, unsigned* count) { *count = INDEX(device) == 1 ? 2 : 0; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void* device, unsigned i, void** mig) { *mig = migs + i; return 0; }
int nvmlSystemGetDriverVersion(char* text, unsigned n) { strcpy(text, "580.65.06"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int* version) { *version = 13000; return 0; }
int nvmlSystemGetCudaDriverVersion(int* version) { *version = 13000; return 0; }
int nvmlDeviceGetCudaComputeCapability(void* device, int* major, int* minor) {
    *major = INDEX(device) == 2 ? 6 : 9; *minor = 0; return 0;
}
int nvmlDeviceGetP2PStatus(void* a, void* b, int index, int* status) {
    *status = INDEX(a) == 0 && INDEX(b) == 1 ? 5 : 0; return 0;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void* device, unsigned* count, Process* processes) {
    unsigned room = *count;
    *count = INDEX(device) == 3 ? 1 : 0;
    if (room < *count) return 7;
    if (*count) { processes[0].pid = 1; processes[0].used = 10000000000ull; }
    return 0;
}
"#;

/// A folder for LD_LIBRARY_PATH that contains the stub.
pub fn stand_in() -> TempDir {
    let dir = tempdir().unwrap();
    let source = dir.path().join("nvml.c");
    std::fs::write(&source, NVML).unwrap();
    let library = dir.path().join("libnvidia-ml.so.1");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(status.success());
    std::os::unix::fs::symlink("libnvidia-ml.so.1", dir.path().join("libnvidia-ml.so")).unwrap();
    dir
}
