"""What makes two jobs the same: for the records they write, and for the state they keep.

Both are hashes of plain JSON in which every default is written out, so that stating a default changes nothing.
Only what is listed here counts; a test says of every key of the job file which of the two it changes.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from streamsample.config.columns import described
from streamsample.config.stages import sharing, stages_of
from streamsample.config.thin import described as thinned

if TYPE_CHECKING:
    from streamsample.config.job import Job
    from streamsample.config.models import Feedback, Input, Source
    from streamsample.config.sample import Sample
    from streamsample.config.targets import Rule

FORMAT = 1
"""Changes when records or state mean something else although the job file is the same."""
DIGITS = 16


def digest(described: Any) -> str:
    """The first 64 bits of SHA-256 over canonical JSON, in hex."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def content(job: Job) -> dict[str, Any]:
    """What decides a record's content: not addresses, output, resources, limits, or where the reading starts."""
    split, features = job.split, job.features
    return {
        "format": FORMAT,
        "job": job.name,
        "input": {
            **_source(job.input),
            **_where(job.input),
            **_encoding(job.input),
            "idle_timeout": job.input.idle_timeout_ms,
        },
        "sample": job.sample and _stages(job, job.sample),
        **({"samples": {name: _stages(job, sample) for name, sample in job.samples.items()}} if job.samples else {}),
        "feedback": {
            name: {
                **_source(feedback),
                **_where(feedback),
                **_encoding(feedback),
                "refers_to": described(feedback.refers_to),
                "idle_timeout": feedback.idle_timeout_ms,
            }
            for name, feedback in job.feedback.items()
        },
        # In the order of the file: it is the order of the fields in the record.
        "targets": [
            [
                name,
                {
                    "type": [target.type, *target.classes],
                    "rules": [
                        [*_read(rule), constant, rule.take, window]
                        for rule, constant, window in zip(
                            target.rules, target.constants, target.windows_ms, strict=True
                        )
                    ],
                    "early": target.early,
                    "if_silent": "drop" if target.drops_silent else [target.implicit_label],
                },
            ]
            for name, target in job.targets.items()
        ],
        "corrections": job.corrections_ms,
        "emit": job.emit,
        **({"thin": thinned(job.thin)} if job.thin is not None else {}),
        "grace": job.grace_ms,
        "skew": job.skew_ms,
        "features": features and {"keep": sorted(features.keep or ()), "drop": sorted(features.drop or ())},
        # In the order of the file: it is the order of the parts on (0, 1).
        "split": split
        and {"by": described(split.by or job.input.id), "seed": split.seed, "shares": list(split.shares.items())},
    }


def shape(job: Job) -> dict[str, Any]:
    """What shapes the state: how rows are identified and dated, what their payloads are.

    A row keeps its features as they will be written, behind them what the sample said, and its part of the split by
    number: so these count too. Not the input's schemas: the state names those of its rows itself, so that new ones can
    be added.
    """
    features = job.features
    several = job.sample if isinstance(job.sample, tuple) else None
    windows = {"design": content(job)["sample"]} if several else content(job)["sample"]
    return {
        "format": FORMAT,
        "input": {**_source(job.input), "encoding": job.input.format, "framed": job.input.confluent},
        "features": features and {"keep": sorted(features.keep or ()), "drop": sorted(features.drop or ())},
        "sampled": job.sample is not None if not several else sharing(several, job.input.id),
        "parts": list(job.split.shares) if job.split else [],
        "joins": bool(job.targets),
        # Their rows and feedback are named by partitions of other numbers.
        **({"rekeyed": sorted(job.rekeyed)} if job.rekeyed else {}),
        # The candidates of an open window are those of this design, and no other's, and of these records.
        **(
            {"windows": {**windows, **_where(job.input)}}
            if job.sample is not None and any(stage.has_state for stage in stages_of(job.sample))
            else {}
        ),
        **({"samples": {**content(job)["samples"], **_where(job.input)}} if job.samples else {}),
    }


def parts(job: Job) -> dict[str, str]:
    """What else must not change under its name, though it may come or go: how feedback is identified and dated, what
    the values of a target are. By key of the job file, a digest of each.

    `thin` is one where a prediction may give several records: each later one is decided on as the first was (B16).
    """
    feedback = {
        f"feedback.{name}": digest({**_source(item), "refers_to": described(item.refers_to)})
        for name, item in job.feedback.items()
    }
    targets = {f"targets.{name}": digest([target.type, target.classes]) for name, target in job.targets.items()}
    revises = job.corrections_ms > 0 or job.emit == "each" or any(target.early for target in job.targets.values())
    thin = {"thin": digest(job.thin and thinned(job.thin))} if revises else {}
    return {**feedback, **targets, **thin}


def _stages(job: Job, sample: Sample | tuple[Sample, ...]) -> Any:
    if isinstance(sample, tuple):
        return [_sample(job, stage) for stage in sample]
    return _sample(job, sample)


def _sample(job: Job, sample: Sample) -> dict[str, Any]:
    return {
        "design": sample.design,
        "rate": sample.rate,
        "by": described(sample.by),
        "rates": sorted(sample.rates_by_stratum.items()),
        "unit": described(sample.unit or job.input.id),
        "seed": sample.seed,
        **({"ratio": [described(sample.target), described(sample.proposal)]} if sample.target is not None else {}),
        **({"rule": [sample.rule, sample.version]} if sample.rule is not None else {}),
        **({"snowball": _snowball(sample)} if sample.hops is not None else {}),
        **({"count": [sample.count, sample.window_ms, sample.first_rate]} if sample.count else {}),
        **_windows(job, sample),
    }


def _snowball(sample: Sample) -> list[Any]:
    """What decides a snowball sample; in whatever order its seeds are named."""
    return [described(sample.from_), described(sample.to), sorted(sample.seeds), sample.hops, sample.frontier_max]


def _windows(job: Job, sample: Sample) -> dict[str, Any]:
    """What decides a sample of fixed size; nothing in other designs."""
    if not sample.windowed:
        return {}
    allocation = sample.form.takes("allocation") and [
        sample.allocation,
        described(sample.of),
        sample.minimum,
        sample.k_max,
    ]
    return {
        "k": sample.k,
        "window": [sample.window_ms, sample.every_ms, sample.records],
        "weight": described(sample.weight),
        "method": sample.method if sample.weight else None,
        "half_life": sample.half_life_ms,
        "strata": sample.strata,
        "others": job.limits.strata_max if sample.by else None,
        "scope": sample.scope,
        "replacement": sample.replacement,
        **({"allocation": allocation} if allocation else {}),
    }


def _read(rule: Rule) -> list[Any]:
    """What a rule reads."""
    undo = rule.undone_by
    return [rule.feedback, described(rule.column), undo and [undo.feedback, described(undo.refers_to)]]


def _source(source: Input | Feedback) -> dict[str, Any]:
    time = source.time and [described(source.time.column), source.time.unit]
    explode = getattr(source, "explode", None)
    slates = {} if explode is None else {"explode": explode}
    return {"topics": source.topics, "id": described(source.id), "time": time, **slates}


def _where(source: Source) -> dict[str, Any]:
    """Which records count; of what is open already it decides nothing."""
    return {} if source.where is None else {"where": source.where}


def _encoding(source: Source) -> dict[str, Any]:
    schemas = [[number, schema.parsed] for number, schema in source.schemas.items()]
    return {
        "encoding": source.format,
        "framed": source.confluent,
        "schemas": sorted(schemas, key=lambda pair: -1 if pair[0] is None else pair[0]),
    }
