"""Which talks the corpus has: the ids that lhotse's recipe demands, and training talks scaled to the hours asked for."""

from __future__ import annotations

import hashlib
import random
from typing import NamedTuple

from . import lexicon

# Ids of lhotse's CSJ recipe (its evaluation, validation and excluded lists); all of them have to exist.
EVAL = (
    "A01M0110 A01M0137 A01M0097 A04M0123 A04M0121 A04M0051 A03M0156 A03M0112 A03M0106 A05M0011",
    "A01M0056 A03F0072 A02M0012 A03M0016 A06M0064 A06F0135 A01F0034 A01F0063 A01F0001 A01M0141",
    "S00M0112 S00F0066 S00M0213 S00F0019 S00M0079 S01F0105 S00F0152 S00M0070 S00M0008 S00F0148",
)
VALID = (
    "A01M0264 A01M0377 A01M0776 A01M0891 A03F0109 A04M0899 A05M0420 A07M0318 A07M0912 A11M0795 A12M0983 D03F0058 "
    "R00M0415 R01F0101 R01F0125 R02M0073 R03F0108 R03F0157 S00F0014 S00M0793 S01F0507 S02F0122 S02F0362 S02M1351 "
    "S02M1372 S03F1199 S04F1020 S05F0443 S07F0853 S07F1333 S07M0827 S08F0717 S08F1340 S09M0619 S10M1090 S10M1275 "
    "S11F0578 S11M0864 S11M1174"
)
EXCLUDED = "S05M0613 R00M0187 D01M0019 D04M0056 D02M0028 D03M0017"

TALK_SECONDS = 100.0  # speech in a training talk; every talk has a speaker of its own
EXCLUDED_SECONDS = 3.0


class Talk(NamedTuple):
    """One recording to make: id, disc volume, part of the corpus, pool of clauses, topic, number of the
    talk among those of its part and topic, seconds of speech."""

    id: str
    volume: str
    part: str
    pool: str
    topic: str
    number: int
    seconds: float

    @property
    def dialogue(self) -> bool:
        return self.id[0] == "D"

    @property
    def sex(self) -> str:
        return self.id[3]

    def names(self) -> tuple[str, ...]:
        """Stems of its WAV files."""
        return (f"{self.id}-L", f"{self.id}-R") if self.dialogue else (self.id,)


def stream(seed: int, *names: object) -> int:
    """Seed of an independent random stream: depends on the names only, never on order or number of jobs."""
    key = "/".join(str(name) for name in (seed, *names))
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def _train_ids(count: int, seed: int) -> list[str]:
    """Training ids shaped like real ones; every eighth is a dialogue, at least one."""
    rng = random.Random(stream(seed, "ids"))
    taken: set[str] = set(" ".join((*EVAL, VALID, EXCLUDED)).split())
    ids: list[str] = []
    while len(ids) < count:
        kind = "D" if len(ids) % 8 == 4 else "AS"[len(ids) % 2]
        sex = "MF"[len(ids) // 2 % 2]
        talk = f"{kind}{rng.randint(0, 9):02d}{sex}{rng.randint(2000, 9999):04d}"
        if talk not in taken:
            taken.add(talk)
            ids.append(talk)
    return ids


def plan_corpus(hours: float, eval_minutes: float, seed: int) -> list[Talk]:
    """All talks, longest first.  hours: speech in core and noncore together; eval_minutes: speech in each of eval1-3.

    The validation set gets 5/7 of eval_minutes; the excluded talks hold a sentence or two each.
    """
    topics = list(lexicon.TOPICS)
    count = max(8, round(hours * 3600 / TALK_SECONDS))
    talks = [
        Talk(
            talk,
            "core" if i % 3 == 0 else "noncore",
            "train",
            "train",
            topics[(i + i // 8) % len(topics)],
            i // len(topics),
            hours * 3600 / count,
        )
        for i, talk in enumerate(_train_ids(count, seed))
    ]
    parts = [(f"eval{i}", "eval", ids, eval_minutes * 60) for i, ids in enumerate(EVAL, start=1)]
    parts.append(("valid", "valid", VALID, eval_minutes * 60 * 5 / 7))
    parts.append(("excluded", "eval", EXCLUDED, EXCLUDED_SECONDS * len(EXCLUDED.split())))
    offset = 0
    for part, pool, ids, seconds in parts:
        names = ids.split()
        for i, talk in enumerate(names):
            volume = "core" if talk[0] in "AS" and part.startswith("eval") else "noncore"
            topic, number = topics[(i + offset) % len(topics)], (i + offset) // len(topics)
            talks.append(Talk(talk, volume, part, pool, topic, number, seconds / len(names)))
        offset += len(names)
    return sorted(talks, key=lambda talk: (-talk.seconds, talk.id))
