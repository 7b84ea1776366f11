"""Parameters that several kinds of run share."""

from typing import Annotated

from pydantic import Field

from app.runs.params import OneOrSeveral, Option, Params, Slug

DEMO_MODEL = "smollm2-135m"
DEMO_CORPUS = "wikipedia-summaries"

SaeSlug = Annotated[
    str,
    Option(argument=True, label="SAE", known="sae"),
    Field(description="Slug of the SAE, such as smollm2-135m-l9-batchtopk-4096."),
]
Corpus = Annotated[
    str,
    Option(path=True, start=DEMO_CORPUS, known="corpus"),
    Field(
        min_length=1,
        description="Text: a .json, .jsonl, .csv, .tsv, .parquet, .arrow or .txt file, a folder of them, a dataset on "
        f"the Hugging Face hub, or {DEMO_CORPUS}, which needs no hub.",
    ),
]


ModelName = Annotated[
    Slug | None,
    Option(default="from its file or address", rare=True),
    Field(description="Name to show for the model."),
]
CorpusName = Annotated[
    str | None,
    Option(default="from its file or address", rare=True),
    Field(min_length=1, max_length=100, description="Name to show for the text."),
]
LENGTH = 128
"""Tokens per sequence where neither the command nor the SAE's training asks for fewer."""
SHORTEST, LONGEST = 8, 8192
_LENGTH = Field(ge=SHORTEST, le=LONGEST, description="Tokens per sequence.")


class CutParams(Params):
    """The tokens of a corpus that are used, and the length of their sequences."""

    text_column: Annotated[
        str, Option(rare=True), Field(min_length=1, description="Column of the corpus that holds the text.")
    ] = "text"
    subset: Annotated[
        str | None,
        Option(default="the only one", rare=True),
        Field(min_length=1, description="Subset (configuration) of a dataset that has several."),
    ] = None
    split: Annotated[str, Option(rare=True), Field(min_length=1, description="Split of a dataset.")] = "train"
    tokens: Annotated[int | None, Option(default="all of the corpus"), Field(ge=1, description="Tokens to use.")] = None
    length: Annotated[int | None, Option(rare=True), _LENGTH] = LENGTH


class _Corpus(Params):
    corpus: Corpus


class CorpusParams(CutParams, _Corpus):
    """A text, and the way it is cut into sequences."""


class SaeParams(Params):
    """An SAE."""

    sae: SaeSlug


class SaesParams(Params):
    """An SAE, or several of one model."""

    sae: Annotated[
        OneOrSeveral[Annotated[str, Field(min_length=1)]],
        Option(argument=True, label="SAE", known="sae"),
        Field(description="Slug of the SAE, such as smollm2-135m-l9-batchtopk-4096; several of one model: a,b."),
    ]


_LengthOfSae = Annotated[
    int | None, Option(default=f"{LENGTH}, or that of the training if it is less", rare=True), _LENGTH
]


class IndexedCorpusParams(CorpusParams):
    """The text that an SAE is indexed on."""

    corpus: Corpus = DEMO_CORPUS
    length: _LengthOfSae = None


class _CorpusOfSae(Params):
    corpus: Annotated[
        str | None,
        Option(path=True, default="that of the SAE's index", known="corpus"),
        Field(
            min_length=1,
            description="Text to measure on, as an index takes it. Of that of the index, all else is as there too: "
            "its tokens, and how it was cut.",
        ),
    ] = None


class TextOfSaeParams(CutParams, _CorpusOfSae):
    """The text that an SAE is measured on: by default that of its index, else of its training."""

    tokens: Annotated[int | None, Option(default="as for the index"), Field(ge=1, description="Tokens to use.")] = None
    length: _LengthOfSae = None
