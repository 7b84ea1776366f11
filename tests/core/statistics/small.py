"""A small corpus with planted features: dead, dense, tied, duplicated, positional and more."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sae_core.corpora import CorpusInfo, DocumentInfo, Sequences
from sae_core.saes import SAE, JumpReLU, SAEConfig
from sae_core.saes.jumprelu import JumpReLUConfig

SEQUENCES, LENGTH, FEATURES, VOCABULARY = 40, 16, 64, 24
TOPICS = ["Art", "Law", "Rivers", None]

DEAD, DENSE, TIED, ONCE, TOKEN, POSITION, AFTER_SPECIAL = range(7)
TWIN, OTHER_TWIN, SPLIT, OTHER_SPLIT, TOPIC, FEW_SEQUENCES, TIED_MAXIMA, RARE, ONE_DOCUMENT, NEIGHBOURS = range(7, 17)
PARENT, PART, ABSORBER = range(17, 20)


class Identity(SAE):
    """An SAE whose activations are its inputs, so that a test decides them to the bit."""

    architecture = "identity"

    def pre_activations(self, x: Tensor, *_: object) -> Tensor:
        return x

    def activate(self, pre: Tensor) -> Tensor:
        return pre


class Cut:
    """Activations cut into shards before the given sequences; records the shards that were requested."""

    def __init__(self, f: np.ndarray, cuts: Sequence[int] = ()) -> None:
        self.f = f
        self.bounds = [0, *cuts, len(f)]
        self.n_shards = len(self.bounds) - 1
        self.asked: list[int] = []

    def rows(self, index: int, /) -> range:
        return range(self.bounds[index], self.bounds[index + 1])

    def shard(self, index: int, /) -> tuple[slice, Tensor]:
        self.asked.append(index)
        where = slice(self.bounds[index], self.bounds[index + 1])
        return where, torch.from_numpy(self.f[where])


def small_sequences(seed: int = 0) -> Sequences:
    """40 sequences of 16 positions: BOS, documents of 5 to 20 tokens with separators between, padding at some ends."""
    random = np.random.default_rng(seed)
    shape = SEQUENCES, LENGTH
    token_ids = random.integers(3, VOCABULARY, shape).astype(np.int32)
    counted, document_of = np.ones(shape, bool), np.zeros(shape, np.int32)
    counted[:, 0] = False
    flat = document_of.reshape(-1)
    start = 0
    sizes = random.integers(5, 20, len(flat))
    for number, size in enumerate(sizes[: int(np.searchsorted(np.cumsum(sizes), len(flat))) + 1]):
        flat[start : start + size] = number
        if start:
            counted.reshape(-1)[start] = False  # the separator
        start += size
    for sequence in range(3, SEQUENCES, 9):
        counted[sequence, -int(random.integers(1, 5)) :] = False
    n_documents = int(document_of.max()) + 1
    document_of[~counted] = -1
    token_ids[~counted] = 1
    documents = [DocumentInfo(f"document {i}", TOPICS[i % len(TOPICS)]) for i in range(n_documents)]
    corpus = CorpusInfo("small", "Small", "small.json", None, None, "0" * 64)
    return Sequences(LENGTH, 0, token_ids, counted, document_of, documents, corpus, "1" * 64)


def small_activations(sequences: Sequences, seed: int = 0) -> np.ndarray:
    """`f[sequence, position, feature]`, also where tokens are not counted: no statistic may include those."""
    random = np.random.default_rng(seed + 1)
    density = random.uniform(0.01, 0.3, FEATURES)
    values = random.gamma(1.0, 2.0, (SEQUENCES, LENGTH, FEATURES)).astype(np.float32)
    values[:, :, FEATURES // 2 :] = np.ceil(values[:, :, FEATURES // 2 :] * 2) / 2  # many equal values
    on = random.random(values.shape) < density
    counted = sequences.counted
    on[:, :, DEAD] = ~counted
    on[:, :, DENSE] = random.random(counted.shape) < 0.7
    values[:, :, TIED] = 1.0
    on[:, :, [ONCE, TOKEN, POSITION, AFTER_SPECIAL, TOPIC, FEW_SEQUENCES, RARE, ONE_DOCUMENT, NEIGHBOURS]] = False
    on[7, 3, ONCE] = True
    on[:, :, TOKEN] = sequences.token_ids == 5
    on[:, 3, POSITION] = True
    on[:, 1:, AFTER_SPECIAL] = counted[:, 1:] & ~counted[:, :-1]
    on[:, :, OTHER_TWIN] = on[:, :, TWIN] = random.random(counted.shape) < 0.1
    on[:, :, OTHER_SPLIT] &= ~on[:, :, SPLIT]
    on[:4, 7, [SPLIT, OTHER_SPLIT]] = True
    topic = np.array([document.topic == "Law" for document in sequences.documents] + [False])
    on[:, :, TOPIC] = topic[sequences.document_of] & (random.random(counted.shape) < 0.5)
    on[4:9, :, FEW_SEQUENCES] = True
    values[:, :, TIED_MAXIMA] = np.minimum(values[:, :, TIED_MAXIMA], 0.5)
    on[[2, 9, 30], 5, RARE] = True
    on[:, 5:8, NEIGHBOURS] = True
    rivers = [i for i, document in enumerate(sequences.documents) if document.topic == "Rivers"]
    on[:, :, ONE_DOCUMENT] = sequences.document_of == max(rivers, key=lambda i: int((sequences.document_of == i).sum()))
    of_token = [sequences.token_ids == token for token in range(VOCABULARY)]
    late = np.arange(SEQUENCES)[:, None] >= 8
    on[:, :, PARENT] = of_token[7] | (of_token[8] & ~late) | (of_token[9] & late)
    on[:, :, PART] = of_token[7] & late
    on[:, :, ABSORBER] = of_token[8] & late
    return np.where(on, values, 0).astype(np.float32)


def small_sae(seed: int = 0) -> Identity:
    """64 features on 64 inputs; three pairs of decoder directions are near each other."""
    sae = Identity(SAEConfig(d_in=FEATURES, d_sae=FEATURES))
    W_dec = torch.randn(FEATURES, FEATURES, generator=torch.Generator().manual_seed(seed))
    W_dec[DEAD] = W_dec[RARE] + 0.01 * W_dec[ONCE]
    W_dec[OTHER_TWIN] = W_dec[TWIN] + 0.01 * W_dec[DEAD]
    W_dec[OTHER_SPLIT] = 3 * W_dec[SPLIT] + 0.03 * W_dec[DEAD]
    W_dec[[PART, ABSORBER]] += W_dec[PARENT]
    sae.W_dec.data = W_dec
    return sae


def random_jumprelu(d_in: int, d_sae: int, seed: int = 0) -> JumpReLU:
    """An SAE in the form that BatchTopK is saved as, about one feature in six active."""
    generator = torch.Generator().manual_seed(seed)
    sae = JumpReLU(JumpReLUConfig(d_in=d_in, d_sae=d_sae))
    sae.W_enc.data = torch.randn(d_sae, d_in, generator=generator).t()
    sae.W_dec.data = torch.randn(d_sae, d_in, generator=generator)
    sae.threshold.data.fill_(d_in**0.5)
    return sae
