#!/usr/bin/env python3
"""Vector search beside hnswlib: the same vectors, the same queries, alternating, one machine.

    eval/side_by_side/rivals.sh
    /tmp/huida-rivals/bin/python eval/side_by_side/search.py --huida target/release/huida

hnswlib builds with our M, ef_construction and number of threads, and answers on one thread with the
least ef that reaches recall@10 of 0.99. Of each, the best of the rounds is compared, since other work
on the machine only ever makes a figure worse, but for recall, of which it is the worst; all rounds
are printed. Fails when either side finds less than that recall.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import hnswlib
import numpy

BREADTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
WANTED = 0.99


def run_huida(args, *more):
    command = [args.huida, "bench", "search", "--vectors", args.vectors, "--dim", args.dim, "--json"]
    done = subprocess.run([str(part) for part in (*command, *more)], check=True, capture_output=True)
    return json.loads(done.stdout)


def read_dump(file, vectors, dim, setup):
    values = numpy.fromfile(file, dtype="<f4").reshape(-1, dim)
    assert len(values) == vectors + setup["queries"], "the dump is of another size"
    return values[:vectors], values[vectors:]


def limits_of(rows, queries, neighbours):
    """The score of each query's last neighbour, in double precision."""
    return [numpy.partition(rows @ query, -neighbours)[-neighbours] for query in queries]


def recall(index, rows, queries, limits, neighbours):
    hits = 0
    for query, limit in zip(queries, limits):
        labels, _ = index.knn_query(query, k=neighbours, num_threads=1)
        hits += int((rows[labels[0]].astype("f8") @ query >= limit - 1e-6).sum())
    return hits / (len(limits) * neighbours)


def run_hnswlib(rows, queries, limits, setup):
    neighbours = setup["neighbours"]
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    links, breadth = setup["links"], setup["build_breadth"]
    index.init_index(max_elements=len(rows), M=links, ef_construction=breadth)
    begin = time.perf_counter()
    index.add_items(rows, num_threads=setup["build_threads"])
    build_s = time.perf_counter() - begin
    for breadth in BREADTHS:
        index.set_ef(breadth)
        found = recall(index, rows, queries[: len(limits)], limits, neighbours)
        if found >= WANTED:
            break
    times = []
    for query in queries:
        begin = time.perf_counter()
        index.knn_query(query, k=neighbours, num_threads=1)
        times.append(time.perf_counter() - begin)
    return {
        "build_s": build_s,
        "queries_per_s": len(times) / sum(times),
        "recall_at_10": found,
        "ms_p99": float(numpy.quantile(times, 0.99)) * 1e3,
        "ef": breadth,
    }


def best(rounds):
    smallest = {key: min(r[key] for r in rounds) for key in ("build_s", "ms_p99", "recall_at_10")}
    return {**smallest, "queries_per_s": max(r["queries_per_s"] for r in rounds)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--huida", default="target/release/huida")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.f32"
        ours.append(run_huida(args, "--dump", file))
        setup = ours[0]["setup"]
        rows, queries = read_dump(file, args.vectors, args.dim, setup)
    versions = {name: version(name) for name in ("hnswlib", "numpy")}
    print(json.dumps({"both": setup, **versions}), flush=True)
    checked = queries[: setup["checked"]].astype("f8")
    limits = limits_of(rows.astype("f8"), checked, setup["neighbours"])
    for number in range(args.rounds):
        if number > 0:
            ours.append(run_huida(args))
        theirs.append(run_hnswlib(rows, queries, limits, setup))
        print(json.dumps({"round": number, "huida": ours[-1], "hnswlib": theirs[-1]}), flush=True)
    ours, theirs = best(ours), best(theirs)
    ratios = {
        "build": theirs["build_s"] / ours["build_s"],
        "queries_per_s": ours["queries_per_s"] / theirs["queries_per_s"],
        "ms_p99": theirs["ms_p99"] / ours["ms_p99"],
    }
    print(json.dumps({"huida": ours, "hnswlib": theirs, "times_better": ratios}))
    short = [side for side, of in (("huida", ours), ("hnswlib", theirs)) if of["recall_at_10"] < WANTED]
    if short:
        print(f"not comparable: recall@10 of {' and '.join(short)} is below {WANTED}", file=sys.stderr)
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
