"""Questions about scenes have right answers, and pretraining sees conversations as the service renders them."""

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from assay.questions import read_questions
from miniature.glyphs import CLASSES, COLORS
from miniature.prompts import counting_metadata, scene_for
from miniature.recipes import verifier
from miniature.recipes.patch_heads import patch_labels
from miniature.recipes.scene_questions import (
    MATCH,
    ask,
    ask_match,
    describe,
    fulfils,
    near,
    relations,
    sample_task,
    texts,
)
from miniature.recipes.world_words import world_words
from miniature.vlm import build_vlm
from miniature.world import sample_scene

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


@pytest.fixture(scope="module")
def built() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    asked = [template.text for template in read_questions().values()]
    return build_vlm([*texts(), *asked], width=64, text_layers=1, vision_width=64, vision_layers=1)


@pytest.mark.parametrize("tag", TAGS)
def test_a_scene_fulfils_the_task_that_it_was_made_for(tag: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        task = sample_task(rng, tag)
        scene = scene_for(task, rng)
        assert task["tag"] == tag
        assert fulfils(scene, task)
        other = near(task, rng)
        assert other["tag"] == tag


def test_rules_by_hand() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene([("apple", "red"), ("apple", "red"), ("cup", "blue")], rng, tidy=True)
    assert fulfils(scene, counting_metadata("apple", 2))
    assert not fulfils(scene, counting_metadata("apple", 1))
    assert not fulfils(scene, counting_metadata("apple", 3))
    assert fulfils(scene, {"include": [{"class": "cup", "count": 1, "color": "blue"}]})
    assert not fulfils(scene, {"include": [{"class": "cup", "count": 1, "color": "red"}]})
    first, second = scene.objects[0], scene.objects[2]
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert {opposite[one] for one in relations(first, second)} == relations(second, first)
    for relation in opposite:
        placed = {"include": [{"class": "apple", "count": 1}, {"class": "cup", "count": 1, "position": [relation, 0]}]}
        assert fulfils(scene, placed) == any(relation in relations(second, one) for one in scene.objects[:2])
    assert sorted(describe(scene.objects).split(", ")) == ["blue cup", "red apple", "red apple"]


def test_as_many_prompts_are_right_as_wrong_and_none_is_worded_as_in_service() -> None:
    rng = np.random.default_rng(1)
    answers = []
    for _ in range(300):
        task = sample_task(rng)
        question, answer = ask_match(scene_for(task, rng), task, rng)
        answers.append(answer)
        assert "accurately represent the prompt" not in question
    assert 0.4 < answers.count("yes") / len(answers) < 0.6
    asked = {template.text for template in read_questions().values()}
    assert not any(one in text for text in asked for one in (part.format(prompt="{prompt}") for part in MATCH))


def test_every_word_that_is_said_is_one_token(built: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    rng = np.random.default_rng(2)
    tokenizer = built[1].tokenizer
    for _ in range(100):
        task = sample_task(rng)
        question, answer = ask(scene_for(task, rng), task, rng)
        said = f"{question} {answer}"
        assert len(tokenizer.tokenize(said)) == len(said.split()) + sum(said.count(mark) for mark in ",.?:")


def test_a_batch_is_the_conversation_that_the_chat_template_writes(
    built: tuple[LlavaForConditionalGeneration, LlavaProcessor],
) -> None:
    model, processor = built
    rng = np.random.default_rng(3)
    scenes, tasks = verifier.draw_scenes(3, rng)
    batch = verifier.make_batch(processor, scenes, tasks, np.random.default_rng(4))
    again = np.random.default_rng(4)
    asked = [
        [ask(scene, task, again) for _ in range(verifier.QUESTIONS)] for scene, task in zip(scenes, tasks, strict=True)
    ]
    for row, turns in enumerate(asked):
        messages = []
        for number, (question, answer) in enumerate(turns):
            content = [{"type": "text", "text": question if number else f" {question}"}]
            messages += [{"role": "user", "content": content if number else [{"type": "image"}, *content]}]
            messages += [{"role": "assistant", "content": answer}]
        text = processor.apply_chat_template(messages)
        wanted = processor(text=text, images=scenes[row].render(), return_tensors="pt")
        length = int(batch.inputs["attention_mask"][row].sum())
        assert batch.inputs["input_ids"][row, :length].tolist() == wanted["input_ids"][0].tolist()
        learnt = processor.decode(batch.labels[row][batch.labels[row] != verifier.IGNORED])
        assert learnt == "".join(f"{answer}<|im_end|>\n" for _, answer in turns)
    # Pixels are the processor's, up to the noise.
    quiet = torch.from_numpy(scenes[0].render() / 127.5 - 1).float().permute(2, 0, 1)
    image = processor(text="<image>", images=scenes[0].render(), return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(quiet, image, atol=1e-5)
    width = model.config.text_config.hidden_size
    losses = verifier.losses_of(model.train(), verifier.Heads(model.config.vision_config.hidden_size, width), batch)
    torch.stack(losses).sum().backward()
    assert all(
        parameter.grad is not None for name, parameter in model.named_parameters() if "post_layernorm" not in name
    )


def test_classes_that_a_question_names_are_counted(
    built: tuple[LlavaForConditionalGeneration, LlavaProcessor],
) -> None:
    tokenizer = built[1].tokenizer
    rng = np.random.default_rng(6)
    scene = sample_scene([("apple", "red"), ("apple", "red"), ("apple", "blue"), ("cup", "blue")], rng, tidy=True)
    said = "Is it a red apple and three apples and blue cups and a kite? apple"
    tokens = tokenizer(said).input_ids
    learnt = [verifier.IGNORED] * (len(tokens) - 1) + [tokens[-1]]  # the last word is an answer
    counts = verifier.named_counts(tokens, learnt, world_words(tokenizer), scene)
    found = [(tokenizer.decode(tokens[place]).strip(), count) for place, count in enumerate(counts) if count >= 0]
    assert found == [("apple", 2), ("apples", 3), ("cups", 1), ("kite", 0)]
    crowd = sample_scene([("cup", "pink")] * 8, rng, tidy=True)
    one = tokenizer("cup").input_ids
    assert verifier.named_counts(one, [verifier.IGNORED], world_words(tokenizer), crowd) == [5]


def test_patches_say_what_stands_in_them() -> None:
    rng = np.random.default_rng(5)
    scene = sample_scene([("apple", "red"), ("cup", "blue"), ("cup", "green")], rng, tidy=True)
    names, colors, centres = patch_labels(scene)
    assert centres.sum() == 3
    assert {CLASSES[n - 1] for n in names if n} == {"apple", "cup"}
    assert {list(COLORS)[n - 1] for n in colors if n} == {"red", "blue", "green"}
    assert ((names > 0) == (colors > 0)).all()


def test_zero_shot_agreement_is_a_share_by_tag(built: tuple[LlavaForConditionalGeneration, LlavaProcessor]) -> None:
    found = verifier.zero_shot_agreement(built[0].eval(), built[1], 12)
    assert set(found) <= set(TAGS)
    assert all(0 <= share <= 1 for share in found.values())
