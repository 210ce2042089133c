"""GenEval's numbers, on cases worked out by hand, and their intervals against known theory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.evaluate.results import ImageResult, read_results, write_lines
from pipelines.evaluate.statistics import compare, compare_prompts, confusion, counting_accuracy, pair_up, summarize


def image(
    index: int,
    sample: int,
    correct: float | None,
    tag: str = "colors",
    wanted: int = 1,
    found: int = 1,
    strict: float | None = None,
) -> ImageResult:
    components = None
    if correct is not None:
        components = {"correct": correct, "strict_correct": correct if strict is None else strict, "found/cup": found}
    metadata = {"tag": tag, "include": [{"class": "cup", "count": wanted}], "prompt": f"prompt {index}"}
    error = "cannot be read" if correct is None else None
    return ImageResult(f"{index}/{sample}.png", index, sample, tag, f"prompt {index}", metadata, components, "", error)


def test_overall_is_the_unweighted_mean_of_the_tags() -> None:
    results = [image(0, k, 1.0) for k in range(4)] + [image(1, k, 0.0) for k in range(4)]
    results += [image(2, k, float(k == 0), tag="position") for k in range(4)]
    summary = summarize(results)
    assert summary["tags"]["colors"][0] == 0.5
    assert summary["tags"]["position"][0] == 0.25
    assert summary["overall"][0] == 0.375
    assert summary["images"][0] == pytest.approx(5 / 12, abs=1e-6)
    assert summary["prompts"][0] == pytest.approx(2 / 3, abs=1e-6), "a prompt is right if any of its images is"
    assert (summary["scored"], summary["unscored"]) == (12, 0)


def test_images_without_a_score_are_in_no_mean() -> None:
    summary = summarize([image(0, 0, 1.0), image(0, 1, None), image(1, 0, None)])
    assert summary["overall"] == [1.0, 1.0, 1.0]
    assert (summary["scored"], summary["unscored"]) == (1, 2)


def test_nothing_scored_is_no_number() -> None:
    assert summarize([image(0, 0, None)])["overall"] is None


def test_counts_and_ranges_are_strict() -> None:
    results = [
        image(0, 0, 1.0, "counting", wanted=2, found=2),
        image(0, 1, 1.0, "counting", wanted=2, found=5, strict=0.0),
        image(1, 0, 0.0, "counting", wanted=7, found=6),
        image(2, 0, 1.0, "counting", wanted=20, found=20),
        image(3, 0, 1.0),
    ]
    accuracy = counting_accuracy(results)
    assert accuracy["counts"] == {"2": 0.5, "7": 0.0, "20": 1.0}
    assert accuracy["ranges"] == {"1-5": 0.5, "1-10": pytest.approx(1 / 3), "1-20": 0.5}
    matrix = confusion(results)
    assert matrix.shape == (21, 21)
    assert (matrix[2, 2], matrix[2, 5], matrix[7, 6], matrix[20, 20], matrix.sum()) == (1, 1, 1, 1, 4)


def test_intervals_are_those_of_the_binomial_where_prompts_have_one_image() -> None:
    """400 independent images, half of them right: 1.96 standard errors of a share are 0.049."""
    value, low, high = summarize([image(index, 0, float(index % 2)) for index in range(400)])["overall"]
    assert value == 0.5
    assert low == pytest.approx(0.451, abs=0.006)
    assert high == pytest.approx(0.549, abs=0.006)


def test_images_of_one_prompt_do_not_count_as_independent() -> None:
    """100 prompts whose four images agree are worth 100 images, not 400."""
    _, low, high = summarize([image(index, k, float(index % 2)) for index in range(100) for k in range(4)])["overall"]
    assert high - low == pytest.approx(2 * 1.96 * 0.05, abs=0.015)


def test_pairs_are_the_same_prompt_and_sample() -> None:
    before = [image(0, 0, 0.0), image(0, 1, 1.0), image(1, 0, 1.0), image(2, 0, None), image(9, 0, 1.0)]
    after = [image(0, 0, 1.0), image(0, 1, 1.0), image(1, 0, 0.0), image(2, 0, 1.0), image(3, 0, 1.0)]
    pairs = pair_up(before, after)
    assert [(pair.after.index, pair.after.sample) for pair in pairs] == [(0, 0), (0, 1), (1, 0)]
    comparison = compare(pairs)
    assert (comparison["better"], comparison["worse"], comparison["pairs"]) == (1, 1, 3)
    assert comparison["overall"][0] == 0.0


def test_a_comparison_is_sharper_than_two_evaluations() -> None:
    """The same images but for five that were mended: the change is certain although each accuracy is not."""
    before = [image(index, 0, float(index % 2)) for index in range(100)]
    after = [image(index, 0, float(index % 2 or index < 10)) for index in range(100)]
    change, low, high = compare(pair_up(before, after))["overall"]
    assert change == pytest.approx(0.05)
    assert low > 0
    assert high < 0.12
    assert compare(pair_up(after, before))["overall"] == pytest.approx([-0.05, -high, -low], abs=1e-9)


def test_prompts_are_compared_whatever_the_number_of_their_images() -> None:
    """Two tags of one prompt each that both have: 1/4 -> 1 and 1/2 -> 0. The order in the files does not matter."""
    before = [image(0, k, float(k == 0), "colors") for k in range(4)] + [
        image(1, k, float(k), "counting") for k in (0, 1)
    ]
    after = [image(1, 0, 0.0, "counting"), image(0, 0, 1.0, "colors"), image(0, 1, None, "colors"), image(2, 0, 1.0)]
    change = compare_prompts([*before, image(3, 0, 1.0)], after)
    assert change is not None
    assert change.value == pytest.approx((0.75 - 0.5) / 2)
    assert compare_prompts(before, [image(2, 0, 1.0)]) is None


def test_prompts_compared_by_one_image_each_are_compared_as_pairs_are() -> None:
    before = [image(index, 0, float(index % 2)) for index in range(40)]
    after = [image(index, 0, float(index % 3 == 0)) for index in range(40)]
    change = compare_prompts(before, after)
    assert change is not None
    assert change.value == pytest.approx(compare(pair_up(before, after))["overall"][0], abs=1e-6)
    assert change.low < change.value < change.high


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["colors", "counting"]), st.booleans()), min_size=1))
def test_numbers_agree_with_a_second_way_to_them(drawn: list[tuple[int, str, bool]]) -> None:
    results = [
        image(index if tag == "colors" else 10 + index, k, float(right), tag)
        for k, (index, tag, right) in enumerate(drawn)
    ]
    summary = summarize(results)
    tags = sorted({tag for _, tag, _ in drawn})
    means = [np.mean([right for _, t, right in drawn if t == tag]) for tag in tags]
    assert summary["overall"][0] == pytest.approx(np.mean(means), abs=1e-6)
    assert summary["images"][0] == pytest.approx(np.mean([right for *_, right in drawn]), abs=1e-6)
    by_prompt = {(tag, index): False for index, tag, _ in drawn}
    for index, tag, right in drawn:
        by_prompt[tag, index] |= right
    assert summary["prompts"][0] == pytest.approx(np.mean(list(by_prompt.values())), abs=1e-6)
    for value, low, high in (summary["overall"], summary["images"], *summary["tags"].values()):
        assert low <= value + 1e-9
        assert high >= value - 1e-9


def test_results_survive_the_file(tmp_path) -> None:
    results = [image(0, 0, 1.0), image(1, 0, None)]
    (tmp_path / "results.jsonl").write_text(write_lines(results))
    assert read_results(tmp_path / "results.jsonl") == results
    assert '"correct": true' in write_lines(results[:1]), "GenEval's own summary script reads this key"
