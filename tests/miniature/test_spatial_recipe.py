"""Pretraining of the spatial judge: right answers, conversations as the service renders them, what patches hold."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from assay.questions import after_images
from assay.spatial_questions import read_spatial_questions
from miniature.glyphs import CLASSES, COLORS
from miniature.recipes import spatial
from miniature.recipes.scene_questions import relations
from miniature.recipes.spatial_examples import KINDS, Example, draw_example, in_patches, patch_labels
from miniature.recipes.spatial_measures import _is_right, measure, own_cases, write, x3_cases
from miniature.recipes.spatial_questions import (
    NOWHERE,
    ask_pair,
    ask_relations,
    look,
    point_text,
    texts,
)
from miniature.recipes.world_words import world_words
from miniature.vlm import build_vlm, save_vlm
from miniature.world import Scene, WorldObject, sample_scene
from miniature.x3_scenes import Camera, sample_wide_scene
from pipelines.spatial_tasks.building.prompts import CONCATENATED, CORRESPONDENCE, DIFFERENCE
from pipelines.spatial_tasks.points import read_answer

Built = tuple[LlavaForConditionalGeneration, LlavaProcessor]


@pytest.fixture(scope="module")
def built() -> Built:
    asked = [*texts(), CORRESPONDENCE, CONCATENATED, DIFFERENCE]
    return build_vlm(asked, width=64, text_layers=1, vision_width=64, vision_layers=1)


def test_a_point_is_the_middle_of_the_box_or_the_nearest_pixel_to_it() -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:32, 8:24] = True
    assert point_text(mask) == "[(0.250, 0.375)]"
    mask[:] = False
    mask[10, 10] = mask[10, 20] = mask[12, 20] = True  # the middle (15.5, 11.5) is in none; (10, 10) is the nearest
    assert point_text(mask) in ("[(0.320, 0.195)]", "[(0.320, 0.164)]", "[(0.164, 0.164)]")
    x, y = read_answer(point_text(mask)).point or (0, 0)
    assert mask[int(y * 64), int(x * 64)]


def test_relations_hold_by_hand_and_are_asked_as_in_service() -> None:
    grey = ((150, 150, 150), (150, 150, 150))
    cup = WorldObject("cup", "blue", 4, 30, 12, COLORS["blue"])
    kite = WorldObject("kite", "red", 44, 30, 12, COLORS["red"])
    scene = Scene((cup, kite), grey)
    wanted = {
        f"{relation} the {other}": answer
        for name, other in (("cup", "kite"), ("blue cup", "red kite"))
        for relation, answer in ((f"Is the {name} left of", "yes"), (f"Is the {name} right of", "no"))
    }
    rng = np.random.default_rng(0)
    asked = dict(ask_relations(scene, 200, rng))
    for beginning, answer in wanted.items():
        assert asked[f"{beginning} in this image? Answer yes or no without explanation."] == answer
    assert not any("above" in question or "below" in question for question in asked), "too near to call"
    template = read_spatial_questions()["relation"]
    service = template.fill(subject="cup", relation="left of", reference="kite")
    assert service.removeprefix("<image> ") in asked
    answers = [answer for _, answer in ask_relations(scene, 400, rng)]
    assert 0.4 < answers.count("yes") / 400 < 0.6


def test_relations_agree_with_the_other_recipes_rule() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        scene = sample_scene([("apple", "red"), ("cup", "blue"), ("kite", "green")], rng)
        by_name = {item.class_name: item for item in scene.objects}
        for question, answer in ask_relations(scene, 6, rng):
            words = question.replace(" of the ", " the ").split()
            names = [word for word in words if word in CLASSES]
            relation = next(one for one in ("left", "right", "above", "below") if one in words)
            found = {one.split()[0] for one in relations(by_name[names[0]], by_name[names[1]])}
            assert (relation in found) == (answer == "yes")


def test_an_object_out_of_view_is_nowhere() -> None:
    item = WorldObject("cup", "blue", 4, 30, 12, COLORS["blue"])
    rng = np.random.default_rng(2)
    assert [answer for _, answer in ask_pair(item, item.mask, rng)][:2] == ["blue cup", "yes"]
    assert [answer for _, answer in ask_pair(item, np.zeros((64, 64), bool), rng)] == ["blue cup", "no", NOWHERE]


def test_nothing_is_worded_or_answered_as_the_tasks_are() -> None:
    own = [text for text in texts() if "{" not in text]
    assert "NOT_VISIBLE" not in " ".join(own)
    rng = np.random.default_rng(3)
    for kind in KINDS:
        turns = [turn for _ in range(10) for turn in draw_example(kind, rng).turns]
        assert not any("marked" in question or "NOT_VISIBLE" in question + answer for question, answer in turns)


def test_patches_say_what_stands_in_them() -> None:
    rng = np.random.default_rng(4)
    scene = sample_wide_scene(rng)
    camera = Camera(20, 20, 1.0)
    seen = look(scene, camera)
    tint = seen[0].mask
    names, colors, middles, tinted = patch_labels(seen, tint)
    assert {CLASSES[n - 1] for n in names if n} == {one.item.class_name for one in seen}
    assert {list(COLORS)[n - 1] for n in colors if n} <= {one.item.color for one in seen}
    assert middles.sum() == len(seen)
    assert np.array_equal(tinted.astype(bool), in_patches(tint))
    corner = np.zeros((64, 64), bool)
    corner[63, 63] = True
    assert np.flatnonzero(in_patches(corner)).tolist() == [63]
    assert not in_patches(np.zeros((64, 64), bool)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_the_conversation_that_the_chat_template_writes(built: Built, kind: str) -> None:
    processor = built[1]
    rng = np.random.default_rng(5)
    examples = [draw_example(kind, rng) for _ in range(3)]
    batch = spatial.make_batch(processor, examples, np.random.default_rng(6))
    for row, example in enumerate(examples):
        messages: list[dict[str, object]] = []
        for number, (question, answer) in enumerate(example.turns):
            text = question if number else after_images(question, len(example.pictures))
            content: list[dict[str, str]] = []
            for place, piece in enumerate(text.split("<image>")):
                content += [{"type": "image"}] if place else []
                content += [{"type": "text", "text": piece}] if piece else []
            messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        wanted = processor(
            text=processor.apply_chat_template(messages), images=list(example.pictures), return_tensors="pt"
        )
        length = int(batch.inputs["attention_mask"][row].sum())
        ids = batch.inputs["input_ids"][row, :length]
        assert ids.tolist() == wanted["input_ids"][0].tolist()
        learnt = processor.decode(batch.labels[row][batch.labels[row] != spatial.IGNORED])
        assert learnt == "".join(f"{answer}<|im_end|>\n" for _, answer in example.turns)
        sought = batch.wanted[row][batch.wanted[row] != spatial.IGNORED]
        if example.wanted is None:
            assert not len(sought)
        else:
            assert sought.tolist() == example.wanted.astype(int).tolist()
            last = (ids == processor.image_token_id).nonzero()[-64:, 0]
            assert (batch.wanted[row, last] != spatial.IGNORED).all()
    quiet = torch.from_numpy(examples[0].pictures[0] / 127.5 - 1).float().permute(2, 0, 1)
    assert (batch.inputs["pixel_values"][0] - quiet).abs().max() < 8 * 5 / 127.5


def test_all_weights_are_learnt(built: Built) -> None:
    model, processor = built
    rng = np.random.default_rng(7)
    batch = spatial.make_batch(processor, [draw_example(kind, rng) for kind in KINDS], rng)
    heads = spatial.Heads(64, 64)
    losses = spatial.losses_of(model.train(), heads, batch)
    torch.stack(losses).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses)
    assert all(
        parameter.grad is not None for name, parameter in model.named_parameters() if "post_layernorm" not in name
    )
    assert all(parameter.grad is not None for parameter in heads.parameters())
    model.zero_grad()


def test_a_batch_without_anything_sought_has_no_loss_of_it(built: Built) -> None:
    model, processor = built
    rng = np.random.default_rng(8)
    batch = spatial.make_batch(processor, [draw_example("relations", rng)], rng)
    losses = spatial.losses_of(model, spatial.Heads(64, 64), batch)
    assert losses[2] == 0
    assert losses[3] == 0
    assert losses[4] > 0


def test_named_objects_are_where_their_middles_are(built: Built) -> None:
    """Two red apples, of which a question means none; one blue apple, and one cup."""
    tokenizer = built[1].tokenizer
    places = {"red": [(0, 1), (3, 3)], "blue": [(5, 2)]}
    patches = np.zeros((1, 4, 8, 8), np.uint8)
    for color, cells in places.items():
        for cell in cells:
            patches[(0, slice(0, 3), *cell)] = CLASSES.index("apple") + 1, list(COLORS).index(color) + 1, 1
    patches[0, :3, 7, 6] = CLASSES.index("cup") + 1, list(COLORS).index("red") + 1, 1
    example = Example(np.zeros((1, 64, 64, 3), np.uint8), patches.reshape(1, 4, 64), None, [])
    tokens = tokenizer("Is the red apple above the blue apple, or an apple left of the cup? cup").input_ids
    learnt = [spatial.IGNORED] * (len(tokens) - 1) + [tokens[-1]]  # the last word is an answer
    found = spatial.named_cells(tokens, learnt, world_words(tokenizer), example)
    assert [cell for cell in found if cell[0] >= 0] == [(5, 2), (7, 6)]


@pytest.mark.parametrize(
    ("answer", "cell"),
    [("[(0.130, 0.990)]", (7, 1)), ("[(0.000, 1.000)]", (7, 0)), ("nowhere", (-100, -100)), ("yes", (-100, -100))],
)
def test_a_point_is_in_the_cell_of_its_patch(built: Built, answer: str, cell: tuple[int, int]) -> None:
    """Of eight rows and columns; said at each of the answer's tokens, and nowhere else."""
    assert spatial.cell_of(f"{answer}<|im_end|>\n") == cell
    example = draw_example("pair", np.random.default_rng(9))
    batch = spatial.make_batch(built[1], [example], np.random.default_rng(9))
    points = [turn[1] for turn in example.turns if turn[1].startswith("[(")]
    said = batch.cells[0][batch.cells[0, :, 0] >= 0]
    assert len(said) == sum(len(built[1].tokenizer(f"{point}<|im_end|>\n").input_ids) for point in points)
    assert {tuple(one) for one in said.tolist()} == {spatial.cell_of(point) for point in points}


def test_measures_count_right_answers_and_those_out_of_view_apart(built: Built, tmp_path: Path) -> None:
    model, processor = built
    cases = x3_cases(8)
    assert all(case.mask.any() for case in cases["x3 difference"])
    for case in cases["x3 correspondence"]:
        right = point_text(case.mask) if case.mask.any() else "NOT_VISIBLE"
        assert _is_right(right, case.mask)
        assert not _is_right("who knows", case.mask)
        assert _is_right("NOT_VISIBLE", case.mask) == (not case.mask.any())
        assert case.text.startswith("<|im_start|>user\n<image>\n<image>\nTwo pictures of one scene")
    found = measure(model.eval(), processor, 3)
    assert {"pair", "difference", "relations", "x3 correspondence", "x3 difference"} <= set(found)
    assert all(0 <= share <= 1 for share in found.values())
    # A saved model writes the same.
    (example, text) = own_cases(1)["pair"][0]
    before = write(model, processor, [text], [example.pictures])
    save_vlm(tmp_path, model, processor)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert write(loaded, LlavaProcessor.from_pretrained(tmp_path), [text], [example.pictures]) == before
    model.float()


def test_every_digit_is_one_token(built: Built) -> None:
    pieces = built[1].tokenizer.tokenize("[(0.523, 0.412)]")
    assert [piece for piece in pieces if piece.isdigit()] == list("05230412")
