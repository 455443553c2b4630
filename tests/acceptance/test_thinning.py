"""Thinning by label: B13, B16 and B17 of semantics.md."""

from __future__ import annotations

import math
from typing import Any

import pytest

from streamsample.errors import ConfigurationError
from streamsample.hashing import hash64, unit_interval
from streamsample.records import Spans
from tests.acceptance.cluster import MakeJob
from tests.acceptance.test_revisions import CLICKS, KINDS, ORDERS, RETURNS, job, worth
from tests.acceptance.timelines import T0, Event, OneTask, job_of, job_tree, later

SEED, COUNT = 11, 400
THIN = {"by": "clicked", "rates": {0: 0.2}, "seed": SEED}


def u_of(identity: str, seed: int = SEED) -> float:
    return float(unit_interval(hash64(Spans.of([identity.encode()]), seed))[0])


def below(rate: float, above: float = 0.0) -> str:
    """An id whose hash lies between."""
    return next(name for name in (f"n{number}" for number in range(10_000)) if above <= u_of(name) < rate)


def shown_and_clicked() -> list[Event]:
    """Every fourth prediction is clicked."""
    shown = [Event("shown", T0 + number, f"p{number}") for number in range(COUNT)]
    return [*shown, *(Event("clicked", T0 + 3_000 + number, f"p{number}") for number in range(0, COUNT, 4))]


def wanted(rates: dict[int, float], seed: int = SEED) -> dict[str, float]:
    """The ids that are admitted, with π."""
    found = {f"p{number}": rates.get(int(number % 4 == 0), 1.0) for number in range(COUNT)}
    return {name: rate for name, rate in found.items() if u_of(name, seed) < rate}


def played(changes: dict[str, Any]) -> OneTask:
    return OneTask(changes).play(shown_and_clicked()).play(later("9h", ["shown", "clicked"]))


def of_ours(task: OneTask) -> list[dict[str, Any]]:
    return [record for record in task.records if not record["features"]["id"].startswith("later")]


def test_records_are_thinned_by_their_label_and_say_so() -> None:
    task = played({"thin": THIN})
    records = of_ours(task)
    counts = {tuple(name.split("\x1f"))[1:]: count for name, count in task.task.counts.items() if "thinned" in name}
    assert sum(counts.values()) >= COUNT
    assert counts["0", "kept"] >= len([name for name, pi in wanted({0: 0.2}).items() if pi == 0.2]) > 40
    assert counts["other", "kept"], counts["other", "dropped"] == (COUNT // 4, 0)
    assert {record["features"]["id"]: record["sampling"]["probability"] for record in records} == wanted({0: 0.2})
    for record in records:
        label = record["targets"]["clicked"]["value"]
        sampling = record["sampling"]
        assert (sampling["design"], sampling["stratum"], sampling["seed"]) == ("thinned by clicked", str(label), SEED)
        assert record["weights"] == {"sampling": 5.0 if label == 0 else 1.0, "delay": None, "log_odds_offset": None}
    total = sum(record["weights"]["sampling"] for record in records)
    assert total == pytest.approx(COUNT, rel=0.2)


def test_b17_an_offset_stands_on_both_classes_in_place_of_weights() -> None:
    records = of_ours(played({"thin": {**THIN, "offset": "log_odds"}}))
    offsets = {record["weights"]["log_odds_offset"] for record in records}
    assert len(records) == len(wanted({0: 0.2}))
    assert offsets == {math.log(1.0) - math.log(0.2)}
    assert {record["weights"]["sampling"] for record in records} == {None}
    assert {record["targets"]["clicked"]["value"] for record in records} == {0, 1}


@pytest.mark.parametrize("seed", [SEED, SEED + 1], ids=["shared", "independent"])
def test_b13_a_sample_before_and_thinning_after_share_u_or_multiply(seed: int) -> None:
    records = of_ours(played({"thin": THIN, "sample": {"design": "simple", "rate": 0.5, "seed": seed}}))
    first, second = wanted({0: 0.5, 1: 0.5}, seed), wanted({0: 0.2})
    both = {name: min(0.5, pi) if seed == SEED else 0.5 * pi for name, pi in second.items() if name in first}
    found = {record["features"]["id"]: record["sampling"]["probability"] for record in records}
    assert found == pytest.approx(both)
    assert 20 < len(found) < 150
    for record in records:
        sampling = record["sampling"]
        assert sampling["design"] == "simple + thinned by clicked"
        assert [(stage["design"], stage["seed"]) for stage in sampling["stages"]] == [
            ("simple", seed),
            ("thinned by clicked", SEED),
        ]
        assert [stage["probability"] for stage in sampling["stages"]] == [0.5, second[record["features"]["id"]]]


# -- B16: a correction decides again ---------------------------------------------------------------


def revised(identity: str, rates: dict[int, float]) -> list[tuple[str, int, int | None, int, float]]:
    """State, revision, supersedes, label and π of the records of one prediction: 1, corrected to 5, then to -1."""
    timeline = "\n".join(
        line.replace("ID", identity)
        for line in (
            "0s     shown     ID",
            "1m     clicked   ID",
            "3601s  bought    ID  amount=5",
            "2h     returned  ID",
        )
    )
    changes = job({"worth": worth(RETURNS, ORDERS, CLICKS)}, corrections="1d")
    task = OneTask({**changes, "thin": {"by": "worth", "rates": rates, "seed": SEED}})
    task.play(timeline).restarted().play(later("3d", KINDS))
    return [
        (
            record["state"],
            record["revision"],
            record["supersedes"],
            record["targets"]["worth"]["value"],
            record["sampling"]["probability"],
        )
        for record in task.records
        if record["features"]["id"] == identity
    ]


def test_b16_a_record_that_stays_admitted_is_corrected_with_its_new_probability() -> None:
    assert revised(below(0.3), {1: 0.5, 5: 0.3, -1: 0.9}) == [
        ("final", 0, None, 1, 0.5),
        ("correct", 1, 0, 5, 0.3),
        ("correct", 2, 1, -1, 0.9),
    ]


def test_b16_a_record_that_is_no_longer_admitted_is_retracted_and_may_come_back() -> None:
    assert revised(below(0.5, above=0.3), {1: 0.5, 5: 0.3, -1: 0.9}) == [
        ("final", 0, None, 1, 0.5),
        ("retract", 1, 0, 5, 0.5),
        ("final", 2, None, -1, 0.9),
    ]


def test_b16_a_record_that_is_admitted_only_later_is_final() -> None:
    assert revised(below(0.9, above=0.5), {1: 0.5, 5: 0.9, -1: 0.3}) == [
        ("final", 1, None, 5, 0.9),
        ("retract", 2, 1, -1, 0.9),
    ]


def test_b16_a_record_that_is_never_admitted_is_never_written() -> None:
    assert revised(below(1.0, above=0.9), {1: 0.5, 5: 0.3, -1: 0.9}) == []


def test_thinning_by_classes_and_by_null() -> None:
    rated = {"clicked": {"type": "boolean", "window": "30m", "if_silent": None,
                         "rules": [{"from": "clicks", "label": True}]}}  # fmt: skip
    records = of_ours(played({"targets": rated, "thin": {**THIN, "rates": {"null": 0.2, "true": 0.6}}}))
    found = {record["features"]["id"]: record["sampling"]["probability"] for record in records}
    assert found == wanted({0: 0.2, 1: 0.6})
    assert {record["sampling"]["stratum"] for record in records} == {"null", "true"}


@pytest.mark.parametrize(
    ("thin", "words"),
    [
        ({"by": "bought"}, 'thin.by: there is no target "bought"'),
        ({"by": "clicked", "rates": {"maybe": 0.1}}, "must be a whole number, or null"),
        ({"by": "clicked", "rates": {0: 0}, "offset": "log_odds"}, "needs a rate > 0 of both labels"),
    ],
)
def test_what_does_not_fit_the_targets_is_refused(thin: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words.replace(".", r"\.")):
        job_of(job_tree("job", {"thin": thin}))


def test_on_a_broker(make_job: MakeJob) -> None:
    job_on_broker = make_job({"thin": {**THIN, "offset": "log_odds"}})
    job_on_broker.publish(shown_and_clicked())
    job_on_broker.later(later("9h", ["shown", "clicked"]))
    job_on_broker.run()
    found = {record["features"]["id"] for record in job_on_broker.records}
    assert {name for name in found if not name.startswith("later")} == set(wanted({0: 0.2}))
