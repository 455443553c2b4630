"""Natural labels: watermarks, and the join of predictions with the feedback that comes later."""

from streamsample.labels.delta import Delta, decode_delta, delta_parts, encode_delta
from streamsample.labels.image import image_of, take_up
from streamsample.labels.join import LabelJoin
from streamsample.labels.ledger import Ledger
from streamsample.labels.results import (
    DUPLICATE,
    FINAL,
    LATE,
    LIMIT,
    NEW,
    STATES,
    Counts,
    FeedbackUsed,
    Lost,
    Settled,
    TargetColumns,
)
from streamsample.labels.settings import JoinSettings, Limits, Rule, TargetRules, Undo, Use, bits_of
from streamsample.labels.space import PayloadSpace
from streamsample.labels.watermark import Watermark

__all__ = [
    "DUPLICATE",
    "FINAL",
    "LATE",
    "LIMIT",
    "NEW",
    "STATES",
    "Counts",
    "Delta",
    "FeedbackUsed",
    "JoinSettings",
    "LabelJoin",
    "Ledger",
    "Limits",
    "Lost",
    "PayloadSpace",
    "Rule",
    "Settled",
    "TargetColumns",
    "TargetRules",
    "Undo",
    "Use",
    "Watermark",
    "bits_of",
    "decode_delta",
    "delta_parts",
    "encode_delta",
    "image_of",
    "take_up",
]
