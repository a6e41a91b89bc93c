"""Cuts labelled sets into what is fitted on and what is asked, for `whole.toml`.

    python3 eval/suites/prepare.py SETS OUT
    huida eval run --suite eval/suites/whole.toml --data OUT --json report.json

SETS is a folder with the sets named below as JSON Lines; OUT gets the parts. The same sets give the
same parts: every shuffle has its seed here. Needs nothing but Python.
"""

import json
import random
import sys
from pathlib import Path


class Parts:
    def __init__(self, sets: Path, out: Path):
        self.sets, self.out = sets, out
        out.mkdir(parents=True, exist_ok=True)

    def read(self, name: str) -> list[dict]:
        lines = (self.sets / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line.strip()]

    def write(self, name: str, rows: list[dict]) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (self.out / f"{name}.jsonl").write_text(text, encoding="utf-8")


def shuffled(rows: list[dict], seed: int) -> list[dict]:
    rows = rows[:]
    random.Random(seed).shuffle(rows)
    return rows


def cut(rows: list[dict], *shares: float) -> list[list[dict]]:
    """Consecutive parts; the last share may be left out."""
    ends = [0]
    for share in shares:
        ends.append(ends[-1] + int(share * len(rows)))
    return [rows[a:b] for a, b in zip(ends, ends[1:])] + [rows[ends[-1] :]]


def loans(parts: Parts) -> None:
    """60 % to fit on, 20 % to calibrate, 20 % to ask; a fifth of the latter two is out of scope."""
    asked = shuffled(parts.read("faq_webank_queries.dev"), 0)
    outside = shuffled(parts.read("oos_webank_zh.dev"), 0)
    train, calibrate, test = cut(asked, 0.6, 0.2)
    out_train, out_calibrate, out_test = cut(outside, 0.6, 0.2)
    parts.write("loan_kb", parts.read("faq_webank_kb"))
    parts.write("loan_train", train)
    parts.write("loan_calibrate", calibrate)
    parts.write("loan_test", test)
    parts.write("out_train", out_train)
    parts.write("out_train_fifth", out_train[: len(train) // 4])
    parts.write("out_calibrate", out_calibrate[: len(calibrate) // 4])
    parts.write("out_test", out_test[: len(test) // 4])
    near = [row for row in out_test if row["oos_type"].startswith("near")]
    parts.write("out_near", near)
    parts.write("out_far", [row for row in out_test if row not in near])


def open_domain(parts: Parts) -> None:
    """Paraphrases without doubles, the hard ones by themselves; loans among very many others."""
    entries = parts.read("faq_general_kb.dev")
    asked = [row for row in parts.read("faq_general_queries.dev") if not row["maybe_duplicate_kb"]]
    bare = [{"id": row["id"], "question": row["question"], "answer": "-"} for row in entries]
    # Without answers: entries that give the same answer count as the same.
    parts.write("general_kb", [{"id": row["id"], "question": row["question"]} for row in entries])
    parts.write("general_asked", asked)
    parts.write("general_hard", [row for row in asked if row["lex_sim"] < 0.5])
    loans = parts.read("faq_webank_kb")
    others = [
        {"id": row["id"], "question": row["q"], "answer": "-"}
        for row in parts.read("load_questions_100k")[: 16_000 - len(bare) - len(loans)]
    ]
    parts.write("mixed_kb", loans + bare + others)


def classes(parts: Parts) -> None:
    clinc = parts.read("clinc150.dev")
    parts.write("clinc_train", [row for row in clinc if "train" in row["split"]])
    parts.write("clinc_test", [row for row in clinc if "val" in row["split"]])
    train, test = cut(shuffled(parts.read("banking77.dev"), 1), 0.8)
    parts.write("banking_train", train)
    parts.write("banking_test", test)
    turns = parts.read("emotion_cped_zh.dev")
    dialogues = sorted({row["dialog"] for row in turns})
    random.Random(1).shuffle(dialogues)
    held = set(dialogues[: len(dialogues) // 5])
    parts.write("mood_train", [row for row in turns if row["dialog"] not in held])
    parts.write("mood_test", [row for row in turns if row["dialog"] in held])


def as_they_are(parts: Parts) -> None:
    for name, source in [
        ("personal", "pii_synthetic_zh.dev"),
        ("handoff", "handoff_urgency_zh.dev"),
        ("replies", "jd_service_qa.dev"),
        ("followups", "rewrite_zh.dev"),
        ("attacks", "attack_prompts.dev"),
    ]:
        parts.write(name, parts.read(source))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    whole = Parts(Path(sys.argv[1]), Path(sys.argv[2]))
    loans(whole)
    open_domain(whole)
    classes(whole)
    as_they_are(whole)
