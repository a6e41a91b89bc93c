#!/usr/bin/env bash
# Fuzzes one target: fuzz/run.sh TARGET [SECONDS]. What it learns goes into target/learned/TARGET, a
# crash into artifacts/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
target=$1
seconds=${2:-600}
mkdir -p "target/learned/$target"
# The flags that watch the code are for nightly compilers; stable ones take them when asked so.
RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir . --dev -s none "$target" \
    "target/learned/$target" "corpus/$target" -- \
    "-max_total_time=$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
