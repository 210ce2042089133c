"""What is read from an OpenAI-compatible server's answer, a chat completion: tokens with probabilities, or a text."""

import logging
from collections.abc import Mapping
from typing import Any

from assay.vision_language.http_questions import UnansweredError, sendable
from assay.vision_language.top_logprobs import ListedToken

logger = logging.getLogger("assay.vision_language")


def listed_tokens(completion: Mapping[str, Any]) -> list[ListedToken]:
    """The tokens that a completion lists for the first place of its first choice; none if it lists none.

    Raises:
        UnansweredError: it is no chat completion.
    """
    try:
        logprobs = completion["choices"][0].get("logprobs")
        content = (logprobs or {}).get("content") or [{}]
        return [
            ListedToken(sendable(one["token"]), float(one["logprob"])) for one in content[0].get("top_logprobs") or []
        ]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(completion) from error


def written_text(completion: Mapping[str, Any]) -> str:
    """What the first choice of a completion says; nothing, where it was cut off before it said anything (a server that
    takes thinking out of the text).

    Raises:
        UnansweredError: it is no chat completion, or says nothing.
    """
    try:
        choice = completion["choices"][0]
        text = choice["message"]["content"]
        if text is None and choice.get("finish_reason") == "length":
            return ""
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise _unreadable(completion) from error
    if not isinstance(text, str):
        raise _unreadable(completion)
    return sendable(text)


def _unreadable(completion: Mapping[str, Any]) -> UnansweredError:
    logger.warning("not a chat completion: %.500s", completion)
    return UnansweredError("INTERNAL", "JUDGE_UNREADABLE", "the judge's answer is no chat completion")
