"""A plain sentence about a feature from its statistics alone: its top tokens, promoted tokens and topics.

It needs neither a model nor the network. It describes what was counted, and claims no meaning.
"""

from collections.abc import Iterable

from app.queries.features import FeatureDetail, OutputToken, TopToken
from app.services.tokens import spelled

_MAIN_SHARE = 0.5
"""Share of the activation from which on one token is named alone."""
_LEAST_SHARE = 0.02
"""Tokens with less of the activation are not named."""
_TOPIC_SHARE, _TOPIC_LIFT = 0.2, 2.0
"""A topic is named if so much of the feature's activity is in it, and so many times more than of all text."""
_NAMED = 3


def plain_suggestion(detail: FeatureDetail) -> str | None:
    """Return a sentence about a feature; None if it was never active, or nothing in its statistics can be named."""
    parts = [_input(detail.top_tokens), _topics(detail), _output(detail.promoted)]
    known = [part for part in parts if part]
    if not parts[0] or not detail.count:
        return None
    sentence = "; ".join(known)
    return sentence[0].upper() + sentence[1:]


def _input(tokens: Iterable[TopToken]) -> str:
    by_name: dict[str, float] = {}
    for token in tokens:
        if not token.special and (name := _name(token.bytes)):
            by_name[name] = by_name.get(name, 0.0) + token.share
    ranked = sorted(by_name.items(), key=lambda named: -named[1])
    if not ranked:
        return ""
    first, share = ranked[0]
    if share >= _MAIN_SHARE:
        return f"mostly {first} ({share:.0%} of its activation)"
    if share < _LEAST_SHARE:
        return f"very many different tokens, of which none has {_LEAST_SHARE:.0%} of its activation"
    named = [name for name, part in ranked if part >= _LEAST_SHARE][:_NAMED]
    total = sum(by_name[name] for name in named)
    return f"many different tokens, most of all {_and(named)} ({total:.0%} of its activation)"


def _topics(detail: FeatureDetail) -> str:
    named = [f"{topic.topic} ({topic.share:.0%})" for topic in detail.topics if _stands_out(topic.share, topic.lift)]
    return f"above all in texts on {_and(named[:2])}" if named else ""


def _stands_out(share: float, lift: float) -> bool:
    return share >= _TOPIC_SHARE and lift >= _TOPIC_LIFT


def _output(tokens: Iterable[OutputToken]) -> str:
    named = list(dict.fromkeys(name for token in tokens if not token.special and (name := _name(token.bytes))))
    return f"raises {_and(named[:_NAMED])} as the next token" if named else ""


def _name(token: bytes) -> str:
    """Return a token's text in quotes, white space in words, and "" for a part of a character."""
    text = spelled(token)
    if not text or any(not character.isprintable() and not character.isspace() for character in text):
        return ""
    if text.isspace():
        return "line breaks" if "\n" in text else "white space"
    return f"“{' '.join(text.split())}”"


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
