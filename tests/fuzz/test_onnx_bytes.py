"""Damaged files: whatever bytes change, the outcome is a graph or one clear error."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.outcome import check, content

NAMES = ("yolov8n", "vit_b_16", "mobilenet_v2")

budget = settings(max_examples=150, deadline=5000, suppress_health_check=list(HealthCheck))


places = st.floats(min_value=0, max_value=1, exclude_max=True)
names = st.sampled_from(NAMES)


@budget
@given(name=names, flips=st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=8))
def test_flipped_bits(name: str, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(content(name))
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    check(bytes(damaged))


@budget
@given(name=names, place=places)
def test_truncation(name: str, place: float) -> None:
    check(content(name)[: int(place * len(content(name)))])


@budget
@given(name=names, place=places, inserted=st.binary(min_size=1, max_size=40))
def test_insertion(name: str, place: float, inserted: bytes) -> None:
    at = int(place * len(content(name)))
    check(content(name)[:at] + inserted + content(name)[at:])


@budget
@given(first=names, second=names, cuts=st.tuples(places, places, places))
def test_splices(first: str, second: str, cuts: tuple[float, float, float]) -> None:
    host, guest = content(first), content(second)
    at, start = int(cuts[0] * len(host)), int(cuts[1] * len(guest))
    check(host[:at] + guest[start : start + int(cuts[2] * 500)] + host[at:])


@budget
@given(damaged=st.binary(max_size=400))
def test_arbitrary_bytes(damaged: bytes) -> None:
    check(damaged)
