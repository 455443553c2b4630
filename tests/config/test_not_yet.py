"""What a later version brings is refused by name."""

import pytest

from streamsample.config import parse_job
from streamsample.errors import ConfigurationError, NotYetError
from tests.config.jobs import ROOT
from tests.config.test_load import FIXED, HALF, IMPORTANCE, SHOP, SMALL, SNOWBALL, WHOLE, shop

REPLACED = "{design: weighted, weight: price, replacement: true, k: 9, window: 1h}"
LATER_IN_LISTS = [
    (f"{{design: {IMPORTANCE}}}", "target: not yet: a sample by importance in a list"),
    (REPLACED, "replace"),
]


@pytest.mark.parametrize(("stage", "words"), LATER_IN_LISTS)
def test_designs_whose_weights_are_not_of_pi_are_refused_in_lists(stage: str, words: str) -> None:
    with pytest.raises(NotYetError, match="not yet") as caught:
        shop(WHOLE, f"[{HALF}, {stage}]")
    assert f"sample[1].{words}" in str(caught.value)


NOT_YET = [
    (
        "sample: {design",
        "samples: {x: {design: simple, rate: 0.1}}\n# {",
        "not yet: several samples of labelled records",
    ),
    ("stratified, by: country, rate: 0.1, rates: {IS: 1.0}", IMPORTANCE, "not yet: weights of importance of labelled"),
    ("rate: 0.1, rates: {IS: 1.0}", FIXED, "not yet: a stratified sample of labelled records"),
    ("seed: 7", "seed: 7, after: labels", "sample.after: not yet"),
    (WHOLE, f"[{HALF}, {{design: simple, rate: 0.5, budget: 7}}]", "sample[1].budget: not yet: designs with budget"),
    (WHOLE, f"[{HALF}, {{design: reservoir, {FIXED}}}]", "sample[1].design: not yet: a reservoir sample of labelled"),
    ("id: impression_id\n", "id: impression_id\n  match: last\n", "input.match: not yet"),
    ("id: impression_id\n", "id: impression_id\n  registry: x\n", "input.registry: not yet: a schema registry"),
    ("type: int", "type: int, corrections: 7d", "targets.clicked.corrections: not yet"),
    ("grace: 5s", "tests: []", "tests: not yet"),
]


@pytest.mark.parametrize(("old", "new", "words"), NOT_YET)
def test_what_a_later_version_brings_is_refused_by_name(old: str, new: str, words: str) -> None:
    with pytest.raises(NotYetError) as caught:
        shop(old, new)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_snowball_of_a_rekeyed_input_is_refused_by_name() -> None:
    """It depends on the order of the records, which those of several partitions do not have."""
    text = SHOP.replace(WHOLE, SNOWBALL).replace("id: impression_id\n", "id: impression_id\n  rekey: true\n", 1)
    with pytest.raises(NotYetError, match=r"sample\.design: not yet: a snowball sample of a rekeyed input"):
        parse_job(text, "shop.yaml", ROOT / "configs")


def test_rekeying_without_targets_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"input\.rekey: has no meaning without targets"):
        parse_job(SMALL.replace("format: json}", "format: json, rekey: true}", 1), "j.yaml")
