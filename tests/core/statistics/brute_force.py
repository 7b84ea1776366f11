"""A second implementation of the statistics: dense, with loops, by the wording of the definitions."""

import math
from collections import defaultdict
from functools import cached_property
from typing import Any

import numpy as np

MASK = (1 << 64) - 1


class Dense:
    """Every activation of every counted token: `f[sequence, position, feature]`, 0 where a token is not counted."""

    def __init__(self, f: np.ndarray, sequences: Any, W_dec: np.ndarray) -> None:
        self.f = np.where(sequences.counted[:, :, None], f, 0).astype(np.float32)
        self.sequences = sequences
        self.W_dec = W_dec
        self.tokens = int(sequences.counted.sum())
        self.n = f.shape[2]

    def active(self, feature: int) -> list[tuple[int, int, float]]:
        """(sequence, position, activation), in order of position."""
        return [
            (int(s), int(p), float(self.f[s, p, feature]))
            for s, p in zip(*np.nonzero(self.f[:, :, feature]), strict=True)
        ]

    def strongest_first(self, feature: int) -> list[tuple[int, int, float]]:
        return sorted(self.active(feature), key=lambda run: (-run[2], run[0], run[1]))

    def histogram(self, feature: int) -> list[int]:
        bins = [0] * 50
        largest = max((value for *_, value in self.active(feature)), default=0.0)
        for *_, value in self.active(feature):
            # b/50 < value/max <= (b + 1)/50, in whole numbers times powers of two: no rounding.
            bins[next(b for b in range(50) if value * 50 <= (b + 1) * largest)] += 1
        return bins

    def bands(self, feature: int) -> dict[int, list[tuple[int, int, float]]]:
        """Band -> its activations. Band 5 is the first fifth of the strongest."""
        order = self.strongest_first(feature)
        bands: dict[int, list[tuple[int, int, float]]] = {band: [] for band in range(1, 6)}
        for rank, run in enumerate(order):
            bands[next(5 - i for i in range(5) if rank < (i + 1) * len(order) / 5)].append(run)
        return bands

    def band_edges(self, feature: int) -> list[float]:
        values = [value for *_, value in self.strongest_first(feature)]
        if not values:
            return [0.0] * 6
        return [values[math.ceil(len(values) * (5 - b) / 5 - 1e-9) - 1] for b in range(5)] + [values[0]]

    def top_examples(self, feature: int) -> list[tuple[int, int, float]]:
        best: dict[int, tuple[int, int, float]] = {}
        for run in self.strongest_first(feature):
            best.setdefault(run[0], run)
        return list(best.values())[:20]

    def band_examples(self, feature: int, seed: int) -> dict[tuple[int, int], tuple[int, int, float]]:
        """(band, rank) -> the activation drawn."""
        length = self.sequences.length
        shuffled = {
            band: sorted(runs, key=lambda run: draw_key(seed, feature, run[0] * length + run[1]))
            for band, runs in self.bands(feature).items()
        }
        seen: set[int] = set()
        drawn = {}
        for rank in range(5):
            for band in (5, 4, 3, 2, 1):
                run = next((run for run in shuffled[band] if run[0] not in seen), None)
                if run is not None:
                    seen.add(run[0])
                    drawn[band, rank] = run
        return drawn

    def coherence(self, feature: int, seed: int, embeddings: np.ndarray, word: np.ndarray) -> float:
        """Mean centred cosine over pairs of examples, times their words' mean information in bits."""
        examples = [*self.top_examples(feature), *self.band_examples(feature, seed).values()]
        if len(examples) < 20:
            return math.nan
        tokens = [int(self.sequences.token_ids[s, p]) for s, p, _ in examples]
        rows = [embeddings[token] - embeddings.mean(0) for token in tokens]
        cosines = [
            float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
            for i, a in enumerate(rows)
            for j, b in enumerate(rows)
            if i != j
        ]
        counted = [word[token] for token in self.sequences.token_ids[self.sequences.counted]]
        bits = [-math.log2(counted.count(word[token]) / len(counted)) for token in tokens]
        return math.fsum(cosines) / len(cosines) * math.fsum(bits) / len(bits)

    def top_tokens(self, feature: int) -> list[tuple[int, int, float, float]]:
        """(token, count, share, mean)"""
        values = defaultdict(list)
        for s, p, value in self.active(feature):
            values[int(self.sequences.token_ids[s, p])].append(value)
        mass = sum(math.fsum(of_token) for of_token in values.values())
        order = sorted(values, key=lambda token: (-math.fsum(values[token]), token))[:10]
        return [
            (token, len(values[token]), math.fsum(values[token]) / mass, math.fsum(values[token]) / len(values[token]))
            for token in order
        ]

    @cached_property
    def joint(self) -> np.ndarray:
        on = (self.f > 0).reshape(-1, self.n).astype(np.int64)
        return on.T @ on

    def coactive(self, feature: int, min_given_this: float) -> list[tuple[int, float, int, float, float]]:
        """(other, pmi, joint, P(other | this), P(this | other))"""
        joint = self.joint
        count = joint[feature, feature]
        found = []
        for other in range(self.n):
            both = int(joint[feature, other])
            if other == feature or both < 5 or both < min_given_this * count:
                continue
            pmi = math.log(both * self.tokens / (count * joint[other, other]))
            if both * self.tokens > count * joint[other, other]:
                found.append((other, pmi, both, both / count, both / joint[other, other]))
        return sorted(found, key=lambda pair: (-pair[4], -pair[2], pair[0]))[:10]

    def near(self, feature: int) -> list[tuple[int, float]]:
        def cosine(a: np.ndarray, b: np.ndarray) -> float:
            return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))

        rows = self.W_dec.astype(np.float64)
        others = [(other, cosine(rows[feature], rows[other])) for other in range(self.n) if other != feature]
        return sorted(others, key=lambda pair: -pair[1])[:10]

    def output_tokens(self, feature: int, directions: np.ndarray, token_ids: np.ndarray) -> list[tuple[int, float]]:
        """(token, effect beyond its mean over features), all, the highest in deviations over features first."""
        found = []
        for column, token in enumerate(token_ids):
            effects = [float(row @ directions[:, column]) for row in self.W_dec.astype(np.float64)]
            mean = math.fsum(effects) / self.n
            deviation = math.sqrt(math.fsum((effect - mean) ** 2 for effect in effects) / self.n)
            beyond = effects[feature] - mean
            found.append((beyond / deviation, int(token), beyond))
        return [(token, beyond) for _, token, beyond in sorted(found, key=lambda entry: -entry[0])]

    def topics(self, feature: int) -> list[tuple[str, int, float, float]]:
        """(topic, count, share, lift)"""
        documents = self.sequences.documents
        places = self.active(feature)
        size: dict[str, int] = defaultdict(int)
        for s, p in zip(*np.nonzero(self.sequences.counted), strict=True):
            if (document := self.sequences.document_of[s, p]) >= 0 and documents[document].topic is not None:
                size[documents[document].topic] += 1
        tokens: dict[str, int] = defaultdict(int)
        seen = defaultdict(set)
        for s, p, _ in places:
            document = int(self.sequences.document_of[s, p])
            if document >= 0 and (topic := documents[document].topic) is not None:
                tokens[topic] += 1
                seen[topic].add(document)
        found = []
        for topic in sorted(tokens):
            share = tokens[topic] / len(places)
            lift = share / (size[topic] / self.tokens)
            if tokens[topic] >= 10 and len(seen[topic]) >= 3 and lift > 1:
                found.append((topic, tokens[topic], share, lift))
        return sorted(found, key=lambda entry: -entry[2] * math.log(entry[3]))[:3]

    def health(self, feature: int) -> dict[str, bool]:
        places = self.active(feature)
        count, joint, length = len(places), self.joint, self.sequences.length
        window = max(1, length // 16)
        in_window = max(sum(start <= p < start + window for _, p, _ in places) for start in range(length - window + 1))
        after = sum(p == 0 or not self.sequences.counted[s, p - 1] for s, p, _ in places)
        enough = count >= 20
        tokens = self.top_tokens(feature)
        counts = np.diag(joint)
        parents = [
            other
            for other, cosine in self.near(feature)
            if cosine >= 0.3 and counts[other] >= 2 * count and counts[other] <= 0.1 * self.tokens
        ]
        first = {token for token, *_ in tokens[:3]}
        return {
            "dead": count == 0,
            "dense": count / self.tokens > 0.1,
            "duplicate": any(
                cosine > 0.95
                and joint[feature, other] > 0
                and joint[feature, other] >= 0.5 * min(joint[feature, feature], joint[other, other])
                for other, cosine in self.near(feature)
            ),
            "positional": enough and in_window >= 0.9 * count,
            "special_token": enough and after >= 0.9 * count,
            "single_token": enough and tokens[0][2] >= 0.95,
            "splitting": count >= 10 and any(joint[feature, parent] >= 0.5 * count for parent in parents),
            "absorption": enough
            and any(
                joint[feature, parent] < 0.05 * count and first & {token for token, *_ in self.top_tokens(parent)}
                for parent in parents
            ),
        }


def draw_key(seed: int, feature: int, position: int) -> tuple[int, int]:
    return split_mix((split_mix((seed + split_mix(feature)) & MASK) + position) & MASK) >> 32, position


def split_mix(x: int) -> int:
    """SplitMix64's output for state x."""
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)
