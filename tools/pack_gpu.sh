#!/usr/bin/env bash
# Pack what a bare CUDA machine without a network lacks (tools/gpu_machine.txt says what it has) into .gpu/site.tar.xz, for
# CPython 3.12 on x86-64 Linux: the packages that `python -m bench cuda` and `picked` import, pinned by requirements.txt, and the
# starter model's tokenizer, made by our own conversion. Run it in the project's folder, after python launch.py:
#
#   tools/pack_gpu.sh [--xformers]    --xformers: also the kernel for packed rows that torch before 2.12 lacks
#
# There, in the project's folder, with its own python3:
#
#   mkdir -p ~/gpu && tar -xJf .gpu/site.tar.xz -C ~/gpu
#   export PYTHONPATH=~/gpu/site TUNEBENCH_WORKSPACE=~/gpu/workspace
#   python3 -m bench cuda --device cuda --first --budget 480 --results first.jsonl
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
site=$tree/site

packages=$("$python" -m tools.gpu_packages "$@")
platforms=()
for glibc in $(seq 39 -1 17); do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
# shellcheck disable=SC2086  # one word for each package
"$python" -m pip install -q --no-deps --no-compile --target "$site" --only-binary=:all: --python-version 3.12 \
  --implementation cp "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any $packages
# what no training imports
rm -rf "$site"/studio "$site"/unsloth_cli "$site"/bin "$site"/test "$site"/tests
find "$site" -name '__pycache__' -prune -exec rm -rf {} +
find "$site/bitsandbytes" -name 'libbitsandbytes_*.so' ! -name '*cuda130*' ! -name '*cpu*' -delete

starter=$("$python" -c '
from trainer_core.models import starter
from trainer_core.runs.workspace import Workspace, default_workspace
print(starter.ensure_starter(Workspace(default_workspace())))' | tail -1)
tokenizer=$tree/workspace/models/$(basename "$starter")
mkdir -p "$tokenizer"
find "$starter" -maxdepth 1 -type f ! -name '*.safetensors' -exec cp {} "$tokenizer" \;

mkdir -p .gpu
tar -C "$tree" -cf - site workspace | xz -T0 -6 > .gpu/site.tar.xz.part
mv .gpu/site.tar.xz.part .gpu/site.tar.xz
du -h .gpu/site.tar.xz
