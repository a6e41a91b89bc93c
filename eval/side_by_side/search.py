#!/usr/bin/env python3
"""Vector search beside hnswlib: the same vectors, the same queries, alternating, one machine.

    python3 -m venv v && v/bin/pip install hnswlib numpy
    v/bin/python eval/side_by_side/search.py --huida target/release/huida

hnswlib builds with M = 16, ef_construction = 200 and two threads, and answers on one thread with
the least ef that reaches recall@10 of 0.99. Of each, the best of the rounds is compared, since
other work on the machine only ever makes a figure worse; all rounds are printed.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import hnswlib
import numpy

QUERIES = 1000
CHECKED = 100
NEIGHBOURS = 10
BREADTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
WANTED = 0.99


def run_huida(args, *more):
    command = [args.huida, "bench", "search", "--vectors", args.vectors, "--dim", args.dim, "--json"]
    done = subprocess.run([str(part) for part in (*command, *more)], check=True, capture_output=True)
    return json.loads(done.stdout)


def read_dump(file, vectors, dim):
    values = numpy.fromfile(file, dtype="<f4").reshape(-1, dim)
    assert len(values) == vectors + QUERIES, "the dump is of another size"
    return values[:vectors], values[vectors:]


def limits_of(rows, queries):
    """The score of each query's tenth neighbour, in double precision."""
    return [numpy.partition(rows @ query, -NEIGHBOURS)[-NEIGHBOURS] for query in queries]


def recall(index, rows, queries, limits):
    hits = 0
    for query, limit in zip(queries, limits):
        labels, _ = index.knn_query(query, k=NEIGHBOURS, num_threads=1)
        hits += int((rows[labels[0]].astype("f8") @ query >= limit - 1e-6).sum())
    return hits / (len(limits) * NEIGHBOURS)


def run_hnswlib(rows, queries, limits):
    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), M=16, ef_construction=200)
    begin = time.perf_counter()
    index.add_items(rows, num_threads=2)
    build_s = time.perf_counter() - begin
    for breadth in BREADTHS:
        index.set_ef(breadth)
        found = recall(index, rows, queries[:CHECKED], limits)
        if found >= WANTED:
            break
    times = []
    for query in queries:
        begin = time.perf_counter()
        index.knn_query(query, k=NEIGHBOURS, num_threads=1)
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
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.f32"
        ours.append(run_huida(args, "--dump", file))
        rows, queries = read_dump(file, args.vectors, args.dim)
    limits = limits_of(rows.astype("f8"), queries[:CHECKED].astype("f8"))
    for number in range(args.rounds):
        if number > 0:
            ours.append(run_huida(args))
        theirs.append(run_hnswlib(rows, queries, limits))
        print(json.dumps({"round": number, "huida": ours[-1], "hnswlib": theirs[-1]}), flush=True)
    ours, theirs = best(ours), best(theirs)
    ratios = {
        "build": theirs["build_s"] / ours["build_s"],
        "queries_per_s": ours["queries_per_s"] / theirs["queries_per_s"],
        "ms_p99": theirs["ms_p99"] / ours["ms_p99"],
    }
    print(json.dumps({"huida": ours, "hnswlib": theirs, "times_better": ratios}))


if __name__ == "__main__":
    main()
