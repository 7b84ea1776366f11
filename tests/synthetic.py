"""A made-up corpus and made-up features over it, plausible to look at, with the exact statistics of both.

The statistics are computed the plain way, over a dense array of all activations, so they can also serve as the truth
that queries are held to.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.queries.publish import ExampleRow, FeatureStatisticsRow

TOPICS: dict[str, tuple[str, ...]] = {
    "Music": ("violin", "symphony", "guitar", "choir", "melody", "opera", "drummer", "album", "chord", "rhythm"),
    "Biology": ("enzyme", "species", "cell", "protein", "mammal", "beetle", "bacteria", "gene", "larvae", "tissue"),
    "Geography": ("river", "valley", "province", "harbour", "mountain", "island", "delta", "plateau", "coast", "lake"),
    "Law": ("court", "treaty", "verdict", "statute", "appeal", "plaintiff", "clause", "judge", "licence", "contract"),
    "Sport": ("striker", "league", "stadium", "marathon", "goalkeeper", "sprint", "coach", "medal", "referee", "cup"),
    "Physics": ("photon", "orbit", "entropy", "quark", "velocity", "magnet", "laser", "vacuum", "plasma", "neutron"),
}
VERBS = ("carried", "described", "opened", "followed", "joined", "defeated", "crossed", "produced", "shaped", "left")
ADJECTIVES = ("old", "narrow", "famous", "northern", "silent", "early", "royal", "small", "bright", "last")
NAMES = (("Ag", "nes"), ("Mar", "guer", "ite"), ("Tha", "bo"), ("Fuj", "iko"), ("Ole", "ks", "andr"), ("Nad", "ia"))
GLUE = ("The", " the", " of", " and", " in", " a", " one", ",", ".", "\n", "\n\n", "\t", " by", " its", " was", "'s")
HOSTILE = ("<script>alert(1)</script>", "&amp;", " {{ 7*7 }}", '"><b>')
PARTIAL = (b"\xf0\x9f", b"\x8e\xbb", b" caf", b"\xc3", b"\xa9")  # 🎻 and café, each split inside a character
END = 0


@dataclass(frozen=True, eq=False)
class Corpus:
    """Sequences of made-up sentences; each document has one topic."""

    vocabulary: list[bytes]
    """Token 0 is the end-of-text token, which also begins every sequence."""
    token_ids: NDArray[np.int32]
    """[sequence, position]"""
    document_of: NDArray[np.int32]
    """[sequence, position]; -1 where there is none."""
    titles: list[str]
    topics: list[str]

    @property
    def counted(self) -> NDArray[np.bool_]:
        """[sequence, position] every token but the end-of-text one."""
        return self.token_ids != END

    def ids(self, texts: tuple[str, ...]) -> list[int]:
        """Token ids of these words, with a leading space."""
        return [self.vocabulary.index(f" {text}".encode()) for text in texts]


@cache
def make_corpus(*, sequences: int = 40, length: int = 32, seed: int = 0) -> Corpus:
    """Documents about one topic each, packed into sequences of equal length."""
    random = np.random.default_rng(seed)
    vocabulary = [b"<|endoftext|>", *(f" {digit}".encode() for digit in range(10))]
    words = [*(word for topic in TOPICS.values() for word in topic), *VERBS, *ADJECTIVES]
    vocabulary += [f" {word}".encode() for word in words]
    vocabulary += [
        part.encode() for part in (*(f" {name[0]}" for name in NAMES), *sorted({p for n in NAMES for p in n[1:]}))
    ]
    vocabulary += [text.encode() for text in (*GLUE, *HOSTILE)] + list(PARTIAL)
    ids = {token: number for number, token in enumerate(vocabulary)}

    def pick(texts: tuple[str, ...]) -> list[int]:
        return [ids[f" {random.choice(texts)}".encode()]]

    def glue(text: str) -> list[int]:
        return [ids[text.encode()]]

    def name() -> list[int]:
        first, *rest = NAMES[random.integers(len(NAMES))]
        return [ids[f" {first}".encode()], *(ids[part.encode()] for part in rest)]

    def sentence(topic: str) -> list[int]:
        nouns = TOPICS[topic]
        tokens = glue("The") + pick(ADJECTIVES) + pick(nouns) + pick(VERBS) + glue(" the") + pick(nouns)
        if random.random() < 0.5:
            tokens += glue(" of") + name() + (glue("'s") + pick(nouns) if random.random() < 0.4 else [])
        if random.random() < 0.4:
            tokens += glue(" in") + [ids[f" {digit}".encode()] for digit in (1, 9, *random.integers(0, 10, 2))]
        if random.random() < 0.06:
            tokens += list(map(ids.__getitem__, PARTIAL[:2] if topic == "Music" else PARTIAL[2:]))
        if random.random() < 0.03:
            tokens += [ids[str(random.choice(HOSTILE)).encode()]]
        return tokens + glue(str(random.choice([".", ".", ".", "\n", "\n\n", "\t"])))

    stream, owner, titles, topics = [], [], [], []
    while len(stream) < sequences * (length - 1):
        topic = str(random.choice(list(TOPICS)))
        subject = str(random.choice(TOPICS[topic]))
        tokens = [token for _ in range(random.integers(2, 7)) for token in sentence(topic)] + [END]
        stream += tokens
        owner += [len(titles)] * (len(tokens) - 1) + [-1]
        titles.append(f"{subject.capitalize()} ({random.choice(ADJECTIVES)})")
        topics.append(topic)
    shape = (sequences, length - 1)
    size = sequences * (length - 1)
    return Corpus(
        vocabulary=vocabulary,
        token_ids=np.pad(np.array(stream[:size], np.int32).reshape(shape), ((0, 0), (1, 0)), constant_values=END),
        document_of=np.pad(np.array(owner[:size], np.int32).reshape(shape), ((0, 0), (1, 0)), constant_values=-1),
        titles=titles,
        topics=topics,
    )


@dataclass(frozen=True, eq=False)
class Features:
    """Activations of made-up features, each of which likes some tokens, and their statistics."""

    corpus: Corpus
    weights: NDArray[np.float32]
    """[feature, token] how much a feature likes a token."""
    activations: NDArray[np.float32]
    """[feature, sequence, position]"""
    seed: int

    @property
    def tokens(self) -> int:
        """Counted tokens."""
        return int(self.corpus.counted.sum())

    @cached_property
    def topic_names(self) -> list[str]:
        """The topics that rows refer to by place."""
        return sorted(set(self.corpus.topics))

    @cache  # noqa: B019 - the tests use a handful of corpora, again and again
    def rows(self) -> list[FeatureStatisticsRow]:
        """Statistics of every feature."""
        active = self.activations.reshape(len(self.weights), -1) > 0
        joint = active.astype(np.float32) @ active.T.astype(np.float32)
        unit = self.weights / np.maximum(np.linalg.norm(self.weights, axis=1, keepdims=True), 1e-9)
        cosine = unit @ unit.T
        return [self._row(number, joint, cosine) for number in range(len(self.weights))]

    def _row(self, number: int, joint: NDArray[np.float32], cosine: NDArray[np.float32]) -> FeatureStatisticsRow:
        activations = self.activations[number]
        values = activations[activations > 0]
        count, maximum = len(values), float(values.max(initial=0))
        bins = np.clip(np.ceil(values / max(maximum, 1e-9) * 50).astype(int) - 1, 0, 49)
        tokens = self._top_tokens(number)
        likes = self.weights[number] + np.random.default_rng(number).normal(0, 0.1, self.weights.shape[1])
        order = np.argsort(-likes, kind="stable")
        others = self._coactive(number, joint)
        near = [other for other in np.argsort(-cosine[number], kind="stable") if other != number][:10]
        topics = self._topics(number)
        ids, counts, shares, means = _columns(tokens, 4)
        coactive, pmi, both, given_this, given_other = _columns(others, 5)
        topic, topic_counts, topic_shares, topic_lifts = _columns(topics, 4)
        return FeatureStatisticsRow(
            number=number,
            count=count,
            density=count / self.tokens,
            max=maximum,
            mean=float(values.mean()) if count else 0.0,
            histogram=np.bincount(bins, minlength=50).tolist(),
            band_edges=np.quantile(values, np.linspace(0, 1, 6)).tolist() if count else [0.0] * 6,
            top_token_ids=ids,
            top_token_counts=counts,
            top_token_shares=shares,
            top_token_means=means,
            promoted_ids=order[:15].tolist(),
            promoted_logits=likes[order[:15]].tolist(),
            suppressed_ids=order[:-16:-1].tolist(),
            suppressed_logits=(likes[order[:-16:-1]] - 1).tolist(),
            coactive=coactive,
            coactive_pmi=pmi,
            coactive_joint=both,
            coactive_given_this=given_this,
            coactive_given_other=given_other,
            near=[int(other) for other in near],
            near_cosine=[float(cosine[number, other]) for other in near],
            topics=topic,
            topic_counts=topic_counts,
            topic_shares=topic_shares,
            topic_lifts=topic_lifts,
            health=self._health(number, len(tokens)),
        )

    def _top_tokens(self, number: int) -> list[tuple[int, int, float, float]]:
        activations = self.activations[number]
        ids = self.corpus.token_ids[activations > 0]
        mass = np.bincount(ids, activations[activations > 0], minlength=len(self.corpus.vocabulary))
        counts = np.bincount(ids, minlength=len(self.corpus.vocabulary))
        best = [int(token) for token in np.argsort(-mass, kind="stable")[:10] if counts[token]]
        return [(t, int(counts[t]), float(mass[t] / mass.sum()), float(mass[t] / counts[t])) for t in best]

    def _coactive(self, number: int, joint: NDArray[np.float32]) -> list[tuple[int, float, int, float, float]]:
        counts = np.maximum(joint.diagonal(), 1)
        both = joint[number]
        pmi = np.where(both >= 3, np.log(np.maximum(both, 1) * self.tokens / counts[number] / counts), -np.inf)
        pmi[number] = -np.inf
        best = [int(other) for other in np.argsort(-pmi, kind="stable")[:10] if np.isfinite(pmi[other])]
        return [
            (o, float(pmi[o]), int(both[o]), float(both[o] / counts[number]), float(both[o] / counts[o])) for o in best
        ]

    def _topics(self, number: int) -> list[tuple[int, int, float, float]]:
        places = np.array([self.topic_names.index(topic) for topic in self.corpus.topics])
        known = self.corpus.document_of >= 0
        topic_of = np.where(known, places[self.corpus.document_of], -1)
        of_all = np.bincount(topic_of[known], minlength=len(self.topic_names)) / known.sum()
        counts = np.bincount(topic_of[known & (self.activations[number] > 0)], minlength=len(self.topic_names))
        shares = counts / max(counts.sum(), 1)
        lifts = shares / np.maximum(of_all, 1e-9)
        best = [int(topic) for topic in np.argsort(-lifts, kind="stable")[:3] if counts[topic]]
        return [(topic, int(counts[topic]), float(shares[topic]), float(lifts[topic])) for topic in best]

    def _health(self, number: int, top_tokens: int) -> list[str]:
        density = np.count_nonzero(self.activations[number]) / self.tokens
        flags = {"dead": density == 0, "dense": density > 0.1, "single_token": top_tokens == 1}
        return [name for name, holds in flags.items() if holds]

    @cache  # noqa: B019
    def examples(self) -> list[ExampleRow]:
        """The 20 best sequences of every feature, and 5 of each fifth of its activations."""
        return [example for number in range(len(self.weights)) for example in self._examples(number)]

    def _examples(self, number: int) -> list[ExampleRow]:
        activations = self.activations[number]
        best = activations.max(axis=1)
        drawn = [
            (0, int(sequence), int(activations[sequence].argmax()))
            for sequence in np.argsort(-best, kind="stable")[:20]
            if best[sequence] > 0
        ]
        places = np.argwhere(activations > 0)
        places = places[np.argsort(activations[tuple(places.T)], kind="stable")]
        random = np.random.default_rng((self.seed, number))
        for band, part in enumerate(np.array_split(places, 5), 1):
            chosen = {int(sequence): int(position) for sequence, position in random.permutation(part)}
            drawn += [(band, sequence, position) for sequence, position in list(chosen.items())[:5]]
        rows, last, rank = [], -1, 0
        for band, sequence, position in drawn:
            rank = rank + 1 if band == last else 0
            last = band
            positions = np.flatnonzero(activations[sequence])
            rows.append(
                ExampleRow(
                    feature=number,
                    band=band,
                    rank=rank,
                    sequence=sequence,
                    position=position,
                    activation=float(activations[sequence, position]),
                    positions=positions.tolist(),
                    values=activations[sequence, positions].tolist(),
                )
            )
        return rows


def _columns(rows: list[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """`rows` turned on their side; `width` empty columns where there are none."""
    return [[row[place] for row in rows] for place in range(width)]


@cache
def make_features(corpus: Corpus, *, n: int = 24, seed: int = 0) -> Features:
    """`n` features: of single words, of a topic's words, of names, digits, white space, markup, dense and dead ones.

    The last one is dead, and the one before it dense, so that every size has both.
    """
    random = np.random.default_rng(seed)
    size = len(corpus.vocabulary)
    begins = [f" {name[0]}".encode() for name in NAMES]
    groups: list[list[int]] = [
        *(corpus.ids(words) for words in TOPICS.values()),
        corpus.ids(VERBS),
        corpus.ids(ADJECTIVES),
        [number for number, token in enumerate(corpus.vocabulary) if token in begins],
        list(range(1, 11)),
        [number for number, token in enumerate(corpus.vocabulary) if not token.strip()],
        [corpus.vocabulary.index(text.encode()) for text in HOSTILE],
        [corpus.vocabulary.index(token) for token in PARTIAL],
    ]
    weights = np.zeros((n, size), np.float32)
    for number in range(n - 2):
        group = groups[number % len(groups)]
        chosen = group if number < len(groups) else random.choice(group, random.integers(1, 1 + len(group) // 2))
        weights[number, chosen] = random.uniform(0.3, 1.0, len(chosen)) * random.uniform(2, 12)
    weights[n - 2] = random.uniform(0, 1, size) * (random.random(size) < 0.4)
    return Features(corpus, weights, _activate(corpus, weights, random), seed)


def _activate(corpus: Corpus, weights: NDArray[np.float32], random: np.random.Generator) -> NDArray[np.float32]:
    """A feature is active where it likes the token, now and then not, and sometimes weakly on the token after."""
    liked = weights[:, corpus.token_ids]
    after = np.pad(liked[:, :, :-1], ((0, 0), (0, 0), (1, 0))) * 0.25
    lingering = np.where(random.random(liked.shape) < 0.3, after, 0)
    strength = random.lognormal(0, 0.25, liked.shape) * (random.random(liked.shape) < 0.9)
    return np.where(corpus.counted, np.maximum(liked * strength, lingering), 0).astype(np.float32)
