#!/bin/bash
# Builds everything that the GPU checks need from this working tree, and packs it for a machine with a GPU.
#
#     bundle.sh OUT
#
# OUT gets `bundle/`: part-0 (programs and data, one zstd tar) and the scripts; OUT/bundle/run.py runs the checks there.
#
# Needs cargo, a C++ compiler, zstd and the CUDA libtorch of `cargo ddp setup --cuda`, which is fetched if it is missing;
# LIBTORCH names another one. No GPU is needed. Object files go to CARGO_TARGET_DIR, or to OUT/target. A first build takes
# about 10 minutes on 2 cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
if [ $# -ne 1 ]; then
    sed -n '2,11s/^# \{0,1\}//p' "$0"
    exit 2
fi
mkdir -p "$1"
out=$(cd "$1" && pwd)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$out/target} CARGO_PROFILE_RELEASE_STRIP=symbols
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
bin=$CARGO_TARGET_DIR/release
cd "$project"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/cargo-ddp/libtorch-2.13.0-cuda
if [ -z "${LIBTORCH:-}" ] && [ ! -e "$cache/lib/libtorch_cuda.so" ]; then
    # The launcher does not link libtorch, so it can be built first and fetch it. Outside a project, setup links none; OUT may
    # be inside of this one.
    cargo build --release -p cargo-ddp
    outside=$(mktemp -d)
    (cd "$outside" && "$bin/cargo-ddp" ddp setup --cuda)
    rmdir "$outside"
fi
export LIBTORCH=${LIBTORCH:-$cache}
if [ ! -e "$LIBTORCH/lib/libtorch_cuda.so" ]; then
    echo "bundle.sh: $LIBTORCH has no CUDA libtorch" >&2
    exit 1
fi

# The launcher, the workers of the test suite, and the runtime's own tests.
cargo build --release -p cargo-ddp -p ddp-tests -p ddp-tests-nccl --bins
tests=$(cargo test --release -p ddp-runtime --lib --no-run --message-format json |
    sed -n 's/.*"executable":"\([^"]*\/ddp_runtime-[^"]*\)".*/\1/p')

# NCCL must be compiled in; on a machine without a GPU the worker then ends with NCCL's own error.
said=$(env -u LD_LIBRARY_PATH "$bin/nccl" 2>&1 || true)
case $said in
*"NCCL is built: true"*) ;;
*)
    echo "bundle.sh: this build has no NCCL: $said" >&2
    exit 1
    ;;
esac

# The templates, as projects that a user would make. They share the target folder, so dependencies are built once.
bundle=$work/bundle
mkdir -p "$bundle/bin"
for name in linear vision mingpt; do
    "$bin/cargo-ddp" ddp new --template "$name" --name "$name" "$work/$name" >/dev/null
    cp Cargo.lock "$work/$name/"
    cargo build --release --manifest-path "$work/$name/Cargo.toml"
    mkdir "$bundle/$name"
    [ ! -d "$work/$name/data" ] || cp -r "$work/$name/data" "$bundle/$name/"
    cp "$bin/$name" "$bundle/bin/"
done
for name in cargo-ddp gpu_checks gpu_steps nccl worker; do
    cp "$bin/$name" "$bundle/bin/"
done
cp "$tests" "$bundle/bin/runtime_tests"
cp "$here/steps.py" "$bundle/"
git log -1 --format='%h %cs %s' >"$bundle/commit"

rm -rf "$out/bundle"
mkdir -p "$out/bundle"
tar -C "$bundle" --sort=name --owner=0 --group=0 -cf - . | zstd -q -19 -T0 -f -o "$out/bundle/part-0"
cp -r "$here"/*.py "$here/checks" "$out/bundle/"
du -sh --apparent-size "$bundle" "$out/bundle"
