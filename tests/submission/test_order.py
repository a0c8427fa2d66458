"""Orders and their digests: stored records hold these digests, so a changed digest costs money."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_vace.submission.order import Order, mark_of, names_in_echo
from support.records import order


def test_the_same_order_has_the_same_fingerprint() -> None:
    assert order().fingerprint == order(size="832x480", sample_steps="50", seed=-1).fingerprint
    assert order().fingerprint == order(sample_guide_scale=5.0).fingerprint
    assert order(model="PrunaAI/vace-14b").fingerprint == order().fingerprint


SIGNED = "https://b.s3.amazonaws.com/a.mp4?X-Amz-Signature=abc&X-Amz-Expires=60&v=1"
PATH = replace(order(), values={**order().values, "src_video": "s3://bucket/a.mp4"})


@pytest.mark.parametrize(
    ("of", "fingerprint", "mark"),
    [
        (order(), "b0eeb4ca469013c9", "8f825a919ebdc197"),
        (order(seed=7), "d3a0e5fa5f12349d", "d50d3c22c8f7f327"),
        (PATH, "ad937a477eac8d43", "43e0d321e00ea889"),
        (order(src_video=SIGNED), "8695988d0f6b80b7", "119216c18320364d"),
        (order("owner/name", steps=3.0, nested={"a": [1, None]}), "b7eba15cd7f7f782", "1d0fa8c4f8790210"),
    ],
    ids=["plain", "seed", "path", "signed", "other model"],
)
def test_fingerprints_are_those_that_stored_records_hold(of: Order, fingerprint: str, mark: str) -> None:
    """A release that changes them would pay again for what earlier attempts have submitted."""
    assert (of.fingerprint[:16], mark_of(of.values, names_in_echo(of.values))[:16]) == (fingerprint, mark)


@pytest.mark.parametrize(
    "other",
    [
        order(prompt="an otter"),
        order(size="480*832"),
        order(seed=7),
        order(src_video="https://a/b.mp4"),
        order(conn_id="another"),
        order(model="someone/else"),
        replace(order(), version="v2"),
    ],
    ids=str,
)
def test_another_video_or_bill_has_another_fingerprint(other: Order) -> None:
    assert other.fingerprint != order().fingerprint


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (
            "https://s3/b/v.mp4?X-Amz-Date=1&X-Amz-Signature=a&versionId=3",
            "https://s3/b/v.mp4?X-Amz-Date=2&X-Amz-Signature=b&versionId=3",
        ),
        ("https://gcs/v.mp4?X-Goog-Signature=a&X-Goog-Expires=9", "https://gcs/v.mp4?X-Goog-Signature=b"),
        ("https://cdn/v.mp4?Expires=1&Signature=a&Key-Pair-Id=k", "https://cdn/v.mp4?Expires=2&Signature=b"),
        (
            "https://oss/v.mp4?OSSAccessKeyId=a&Signature=b&Expires=1&security-token=c",
            "https://oss/v.mp4?OSSAccessKeyId=d&Signature=e&Expires=2&security-token=f",
        ),
        ("https://oss/v.mp4?x-oss-signature=a&x-oss-date=1", "https://oss/v.mp4?x-oss-signature=b"),
        ("https://cos/v.mp4?q-signature=a&q-sign-time=1", "https://cos/v.mp4?q-signature=b"),
        ("https://az/v.mp4?sv=1&se=2&sr=b&sp=r&sig=a", "https://az/v.mp4?sv=1&se=3&sr=b&sp=r&sig=b"),
    ],
)
def test_a_new_signature_is_no_other_input(one: str, two: str) -> None:
    assert order(src_video=one).fingerprint == order(src_video=two).fingerprint
    assert order(src_ref_images=[one]).fingerprint == order(src_ref_images=[two]).fingerprint
    assert order(src_video=one).fingerprint != order(src_video=one.replace("v.mp4", "w.mp4")).fingerprint


def test_a_prompt_that_begins_like_a_url_is_text() -> None:
    odd = order(prompt="http://[fox] on a hill")
    assert odd.fingerprint != order().fingerprint
    assert mark_of(odd.values, ["prompt"]) != mark_of(order().values, ["prompt"])


def test_a_query_that_signs_nothing_counts() -> None:
    first, second = (order(src_video=f"https://a/b?id={n}&expires=1") for n in (1, 2))
    assert first.fingerprint != second.fingerprint
    signed, other = (order(src_video=f"https://a/b?id={n}&sig=x") for n in (1, 2))
    assert signed.fingerprint != other.fingerprint


@pytest.mark.parametrize("data", ["data:image/png;base64,AAAA", " \tDATA:image/png;base64,AAAA"])
@pytest.mark.parametrize("is_list", [False, True])
def test_a_file_in_the_input_identifies_no_prediction(data: str, *, is_list: bool) -> None:
    values = {"prompt": "a fox", "image": [data] if is_list else data}
    assert names_in_echo(values) == ("prompt",)


def of_other_model(**values: Any) -> Order:
    return Order(values=values, model="owner/name", version=None, conn_id="c")


def test_a_local_path_has_the_digest_of_earlier_releases() -> None:
    # They percent-encoded local paths, and a changed digest would pay again.
    plain = of_other_model(src_video="file:///data/run:1 a/b.mp4")
    assert plain.fingerprint == of_other_model(src_video="file:///data/run%3A1%20a/b.mp4").fingerprint


def test_a_new_signature_inside_an_object_is_the_same_order() -> None:
    def signed(signature: str) -> str:
        url = f"https://b.s3.amazonaws.com/a.mp4?X-Amz-Signature={signature}"
        return of_other_model(scene={"refs": [{"url": url}], "n": 1.0, "text": " x "}).fingerprint

    assert signed("one") == signed("two")


def test_an_object_with_a_file_inside_is_no_echo() -> None:
    values = {"scene": {"refs": ["data:image/png;base64,AA"]}, "prompt": "a fox", "more": {"n": [1]}}
    assert names_in_echo(values) == ("more", "prompt")


# --- the digest in manifests -----------------------------------------------------------------------


def digest(of: Order) -> str | None:
    return of.identified({}).digest


def test_the_same_order_has_the_same_digest_over_any_connection() -> None:
    assert digest(order()) == digest(order(size="832x480", sample_steps="50", seed=-1, conn_id="other"))
    assert digest(order(model="PrunaAI/vace-14b")) == digest(order(seed=7)) == digest(order())
    assert digest(replace(order(), arguments="abc")) == digest(order())
    assert digest(order(src_video=SIGNED)) == digest(order(src_video=SIGNED.replace("abc", "def")))


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        (order(), "e9fadac33c607313"),
        (order(sample_steps=20), "6c1e3371575b22d9"),
        (order("owner/name", steps=3.0, seed=2), "45d0f17c2b6148ad"),
        (replace(order(), version="v"), "2e27475e5a195b29"),
    ],
    ids=["plain", "steps", "other model", "version"],
)
def test_digests_are_those_that_manifests_hold(of: Order, expected: str) -> None:
    """A release that changes them would pay again for videos that are saved."""
    assert str(digest(of))[:16] == expected


def test_the_content_of_a_file_stands_in_place_of_its_path() -> None:
    contents = {"s3://bucket/a.mp4": {"sha256": "1"}}
    nested = replace(order("owner/name"), values={"clips": [{"a": "s3://bucket/a.mp4"}], "n": 1})
    for of in (PATH, nested):
        assert len({of.identified(known).digest for known in ({}, contents, {**contents, "x": 2})}) == 2
    assert PATH.identified(None).digest is None


def test_a_digest_does_not_distinguish_orders() -> None:
    assert order().identified({}) == order()
    assert order().identified({}).fingerprint == order().fingerprint


@pytest.mark.parametrize(
    ("of", "seed"), [(order(), None), (order(seed=7), 7), (order(seed=0), 0), (order("a/b", seed=7), None)]
)
def test_only_a_seed_by_the_author_is_fixed(of: Order, seed: int | None) -> None:
    assert of.fixed_seed == seed
