"""Rows that label texts, compare two, or say which belong together."""

from __future__ import annotations

import math
from typing import Any

from soup_git.data.rows import BadRowError, Row, in_short
from soup_git.data.turns import checked_text

MOST_LABELS = 1024


def labelled(row: Row) -> Row:
    """`{"text", "label"}`."""
    return {"text": checked_text(row["text"], "text"), "label": _label(row["label"])}


def text_pair(row: Row) -> Row:
    """`{"text", "text_pair", "label"}`."""
    texts = {key: checked_text(row[key], key) for key in ("text", "text_pair")}
    return {**texts, "label": _label(row["label"])}


def query_document(row: Row) -> Row:
    """`{"query", "document", "label"}`, as a pair of texts."""
    texts = {key: checked_text(row[key], key) for key in ("query", "document")}
    return {
        "text": texts["query"],
        "text_pair": texts["document"],
        "label": _label(row["label"]),
    }


def ranked(row: Row) -> Row:
    """`{"query", "positive", "negatives"}`: a document that answers, and some that do not."""
    negatives = row["negatives"]
    if not isinstance(negatives, list) or not negatives:
        raise BadRowError("negatives should be a list of texts")
    texts = [checked_text(text, f"negatives[{i}]") for i, text in enumerate(negatives)]
    positive = checked_text(row["positive"], "positive")
    if positive in texts:
        raise BadRowError("positive is among the negatives")
    return {"query": checked_text(row["query"], "query"), "positive": positive, "negatives": texts}


def related(row: Row) -> Row:
    """`{"anchor", "positive"[, "negative"]}`: texts that belong together, and one that does not."""
    keys = ("anchor", "positive", *(["negative"] if row.get("negative") is not None else []))
    return {key: checked_text(row[key], key) for key in keys}


def _label(value: Any) -> Any:
    """A name, a number, or a list of either for several labels at once."""
    if isinstance(value, list):
        if len(value) > MOST_LABELS:
            raise BadRowError(f"label has {len(value)} entries, more than {MOST_LABELS}")
        if any(isinstance(item, list) for item in value):
            raise BadRowError("label should be one list, this is a list of lists")
        return [_label(item) for item in value]
    if isinstance(value, str):
        if "\x00" in value:
            raise BadRowError("label holds a null character")
        return checked_text(value, "label")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRowError(f"label should be a name or a number, it is {in_short(value)}")
    if not math.isfinite(value):
        raise BadRowError("label should be a finite number")
    return value
