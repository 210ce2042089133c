"""The judge in this process, on the classes that verifiers are made from: what `generate` sees, alone, in batches, and
with what conversations share computed once."""

import importlib.util
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_verifiers
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_verifiers import random_images
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn

from assay.answer_tokens import AnswerTokens, find_answer_tokens
from assay.errors import ConfigError
from assay.serving.model_files import ModelLoadError
from assay.vision_language.answers import Answer, probability
from assay.vision_language.inquiry import Inquiry
from assay.vision_language.transformers_judge import TransformersJudge
from assay.vision_language.vision_language_model import VisionLanguageModel

CLASSES = ("llava", "idefics3", "onevision", "qwen2_5_vl", "qwen3_vl")
# Stated in the README: what an item's margin may differ by between alone and in a batch, in float32.
TOLERANCE = 1e-4


def _load(folder: Path, **options: Any) -> VisionLanguageModel:
    return VisionLanguageModel.load(str(folder), affirmation="yes", device="cpu", **options)


def _judge(vlm: VisionLanguageModel, **options: Any) -> TransformersJudge:
    return TransformersJudge(vlm, find_answer_tokens(vlm.tokenizer, "yes", "no", "any"), **options)


@pytest.fixture(scope="module", params=CLASSES)
def vlm(request: pytest.FixtureRequest) -> VisionLanguageModel:
    if request.param in ("llava", "idefics3"):
        return _load(request.getfixturevalue(f"{request.param}_folder"))
    return getattr(tiny_verifiers, f"make_{request.param}")()


@pytest.fixture(scope="module")
def llava(llava_folder: Path) -> VisionLanguageModel:
    return _load(llava_folder)


def _inquiries(num_turns: int = 2) -> list[Inquiry]:
    """Conversations of unequal length in both turns."""
    return [
        Inquiry((image,), (f"<image> Is this {'one and ' * index}a kite?", f"And {'a red ' * index}apple?")[:num_turns])
        for index, image in enumerate(random_images(4))
    ]


def _margins(answers: Any) -> list[list[float]]:
    return [[answer.components["margin"] for answer in one] for one in answers]


def test_answers_are_read_from_the_logits_that_generate_sees(vlm: VisionLanguageModel) -> None:
    judge, tokens = _judge(vlm), find_answer_tokens(vlm.tokenizer, "yes", "no", "any")
    for inquiry in _inquiries():
        for turn, answer in enumerate(judge.ask([inquiry])[0], start=1):  # type: ignore[arg-type]
            assert isinstance(answer, Answer)
            inputs = vlm.inputs([vlm.conversation(inquiry, turn)], [inquiry.images])
            generated = vlm.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
            )
            logits = generated.logits[0][0]
            yes, no = (float(torch.logsumexp(logits[list(ids)], 0)) for ids in (tokens.yes, tokens.no))
            assert answer.components["logit_yes"] == pytest.approx(yes, abs=TOLERANCE)
            assert answer.components["logit_no"] == pytest.approx(no, abs=TOLERANCE)
            assert answer.p == pytest.approx(probability(yes - no), abs=TOLERANCE)
            whole = torch.softmax(logits, 0)
            said = float(whole[[*tokens.yes, *tokens.no]].sum())
            assert answer.components["answered"] == pytest.approx(said, abs=TOLERANCE)
            assert answer.word == vlm.tokenizer.decode([int(logits.argmax())]).strip()


def test_an_image_gets_the_same_answer_alone_and_in_a_padded_batch(vlm: VisionLanguageModel) -> None:
    judge, inquiries = _judge(vlm), _inquiries()
    together = _margins(judge.ask(inquiries))
    for inquiry, margins in zip(inquiries, together, strict=True):
        assert _margins(judge.ask([inquiry]))[0] == pytest.approx(margins, abs=TOLERANCE)
    assert _margins(_judge(vlm, max_images_per_pass=3).ask(inquiries)) == [
        pytest.approx(one, abs=TOLERANCE) for one in together
    ]


def test_a_shared_prefix_equals_two_separate_conversations(vlm: VisionLanguageModel) -> None:
    judge, inquiries = _judge(vlm), _inquiries()
    assert judge.shares_prefix
    shared = _margins(judge.ask(inquiries))
    assert _margins(judge._ask_together(inquiries, share=False)) == [
        pytest.approx(one, abs=TOLERANCE) for one in shared
    ]
    first_alone = _margins(judge.ask(_inquiries(num_turns=1)))
    assert [one[:1] for one in shared] == [pytest.approx(one, abs=TOLERANCE) for one in first_alone]


def test_answers_follow_the_image_and_the_words(vlm: VisionLanguageModel) -> None:
    judge = _judge(vlm)
    one, other = random_images(2)
    asked = [
        Inquiry((one,), ("<image> a kite?",)),
        Inquiry((other,), ("<image> a kite?",)),
        Inquiry((one,), ("<image> red?",)),
    ]
    margins = [one[0] for one in _margins(judge.ask(asked))]
    assert min(abs(margins[0] - margins[1]), abs(margins[0] - margins[2])) > 10 * TOLERANCE


def test_image_features_are_computed_once_and_only_the_new_tokens_afterwards(
    llava: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, seen = _judge(llava), []
    forward = llava.model.forward
    monkeypatch.setattr(llava.model, "forward", lambda **inputs: seen.append(inputs) or forward(**inputs))
    judge.ask(_inquiries())
    first, second = seen
    assert "pixel_values" in first
    assert "pixel_values" not in second
    assert second["input_ids"].shape[1] < 40 < 64 < first["input_ids"].shape[1]
    seen.clear()
    judge.ask(_inquiries(num_turns=1))
    assert len(seen) == 1
    assert seen[0]["use_cache"] is False


class _WithoutCache(nn.Module):
    """A class that cannot go on from its cache: it hands none out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._inner = model
        self.device, self.dtype = model.device, model.dtype
        self._prepare_position_ids_for_generation = model._prepare_position_ids_for_generation

    def forward(self, **inputs: Any) -> Any:
        if inputs.get("past_key_values") is not None:
            raise TypeError("no cache here")
        return self._inner(**{**inputs, "use_cache": False})


class _WithoutLogits(_WithoutCache):
    """A class of another kind."""

    def forward(self, **inputs: Any) -> Any:
        raise TypeError("unexpected keyword argument 'logits_to_keep'")


class _PositionsFromTheLeft(_WithoutCache):
    """A class in which padding counts as text: batches of unequal length change its answers."""

    def forward(self, **inputs: Any) -> Any:
        length = inputs["input_ids"].shape[1]
        mask = torch.ones_like(inputs["attention_mask"])
        return super().forward(**{**inputs, "attention_mask": mask, "position_ids": torch.arange(length)[None]})


def _with_model(vlm: VisionLanguageModel, model: Any) -> VisionLanguageModel:
    return VisionLanguageModel(model, vlm.processor, "yes", {})


def test_a_class_that_cannot_reuse_its_cache_goes_the_long_way_and_says_so(
    llava: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "assay.vision_language"):
        judge = _judge(_with_model(llava, _WithoutCache(llava.model)))
    assert not judge.shares_prefix
    assert "_WithoutCache: cannot go on from its cache" in caplog.text
    expected = _margins(_judge(llava).ask(_inquiries()))
    assert _margins(judge.ask(_inquiries())) == [pytest.approx(one, abs=TOLERANCE) for one in expected]


def test_a_class_that_cannot_be_asked_is_refused_at_the_start(llava: VisionLanguageModel) -> None:
    with pytest.raises(ModelLoadError, match=r"_WithoutLogits does not answer in one forward pass: .*logits_to_keep"):
        _judge(_with_model(llava, _WithoutLogits(llava.model)))


def test_a_class_that_answers_differently_in_batches_is_asked_one_by_one(
    llava: VisionLanguageModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "assay.vision_language"):
        judge = _judge(_with_model(llava, _PositionsFromTheLeft(llava.model)))
    assert "_PositionsFromTheLeft: batches change its answers" in caplog.text
    inquiries = _inquiries()
    alone = [_margins(judge.ask([inquiry]))[0] for inquiry in inquiries]
    assert _margins(judge.ask(inquiries)) == [pytest.approx(one, abs=TOLERANCE) for one in alone]


class _NotANumber(_WithoutCache):
    """Half precision that overflows; with `together`, in batches alone."""

    def __init__(self, model: Any, together: bool) -> None:
        super().__init__(model)
        self._together = together

    def forward(self, **inputs: Any) -> Any:
        outputs = super().forward(**inputs)
        if len(inputs["input_ids"]) > int(self._together):
            outputs.logits = outputs.logits * float("nan")
        return outputs


def test_a_model_that_answers_with_no_numbers_is_refused_at_the_start(llava: VisionLanguageModel) -> None:
    with pytest.raises(ModelLoadError, match=r"_NotANumber answers with no numbers in torch\.float32.*backend\.dtype"):
        _judge(_with_model(llava, _NotANumber(llava.model, together=False)))


def test_a_model_that_loses_its_numbers_in_batches_is_asked_one_by_one(llava: VisionLanguageModel) -> None:
    judge = _judge(_with_model(llava, _NotANumber(llava.model, together=True)))
    expected = _margins(_judge(llava).ask(_inquiries()))
    assert _margins(judge.ask(_inquiries())) == [pytest.approx(one, abs=TOLERANCE) for one in expected]


def test_only_full_precision_claims_that_batches_change_nothing(llava: VisionLanguageModel, llava_folder: Path) -> None:
    assert _judge(llava).deterministic
    assert not _judge(_load(llava_folder, dtype="bfloat16")).deterministic


def test_a_template_that_forgets_earlier_turns_goes_the_long_way(llava_folder: Path, tmp_path: Path) -> None:
    """Templates of thinking models drop parts of earlier turns: one conversation is no beginning of the next."""
    path = tmp_path / "forgetful.jinja"
    path.write_text(
        "{{ messages | length }}{% for message in messages %}\n{{ message['role'] }}: "
        "{% for part in message['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}"
        "{% endfor %}\nassistant:"
    )
    vlm = _load(llava_folder, chat_template=path)
    judge, inquiries = _judge(vlm), _inquiries()
    assert judge._added(inquiries, 2) is None
    expected = [judge._ask_together([inquiry], share=False)[0] for inquiry in inquiries]
    assert _margins(judge.ask(inquiries)) == [pytest.approx(one, abs=TOLERANCE) for one in _margins(expected)]


@pytest.mark.parametrize("template", ["<|im_start|>: {}", ": {}"])
def test_the_token_that_begins_a_text_stands_there_once(llava_folder: Path, tmp_path: Path, template: str) -> None:
    """Some chat templates write it, some leave it to the tokenizer, and most tokenizers would add it again."""
    (tmp_path / "asked.jinja").write_text(template.format("<image>? {{ messages | length }}"))
    vlm = _load(llava_folder, chat_template=tmp_path / "asked.jinja")
    vlm.tokenizer.bos_token = "<|im_start|>"
    begin = ("<|im_start|>", vlm.tokenizer.bos_token_id)
    vlm.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    inquiry = _inquiries()[0]
    text = vlm.conversation(inquiry, 1)
    for ids in (vlm.tokenize(text), vlm.inputs([text], [inquiry.images])["input_ids"][0].tolist()):
        assert [index for index, token in enumerate(ids) if token == begin[1]] == [0]


def test_all_spellings_of_a_word_count_or_the_exact_one(llava: VisionLanguageModel) -> None:
    tokenizer = llava.tokenizer
    found = find_answer_tokens(tokenizer, "yes", "no", "any")
    assert sorted(tokenizer.decode([one]) for one in found.yes) == [" Yes", " yes", "Yes", "yes"]
    assert sorted(tokenizer.decode([one]) for one in found.no) == [" No", " no", "No", "no"]
    exact = find_answer_tokens(tokenizer, "yes", "no", "exact")
    assert exact == AnswerTokens(*((tokenizer.convert_tokens_to_ids(word),) for word in ("yes", "no")))


@pytest.mark.parametrize("forms", ["any", "exact"])
def test_a_word_without_a_token_of_its_own_is_refused(llava: VisionLanguageModel, forms: Any) -> None:
    with pytest.raises(ConfigError, match=r"answers\.negative = 'nevermore': .* has no single token"):
        find_answer_tokens(llava.tokenizer, "yes", "nevermore", forms)


def test_half_precision_answers_nearly_the_same(llava: VisionLanguageModel, llava_folder: Path) -> None:
    half = _load(llava_folder, dtype="bfloat16")
    assert half.fingerprint_parts["dtype"] == "bfloat16"
    expected = _margins(_judge(llava).ask(_inquiries()))
    assert _margins(_judge(half).ask(_inquiries())) == [pytest.approx(one, abs=0.5) for one in expected]


@pytest.fixture(scope="module")
def adapter(llava: VisionLanguageModel, llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes something: a new one's second half is zero."""
    torch.manual_seed(1)
    adapted = get_peft_model(_load(llava_folder).model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.5)
    folder = tmp_path_factory.mktemp("adapter")
    adapted.save_pretrained(str(folder))
    return folder


def test_an_adapter_changes_answers_and_fingerprint(
    llava: VisionLanguageModel, llava_folder: Path, adapter: Path
) -> None:
    tuned = _load(llava_folder, adapter=str(adapter))
    assert tuned.fingerprint_parts["adapter"] != llava.fingerprint_parts["adapter"] == "none"
    judge = _judge(tuned)
    assert judge.shares_prefix
    plain, changed = (_margins(one.ask(_inquiries())) for one in (_judge(llava), judge))
    assert abs(plain[0][0] - changed[0][0]) > 100 * TOLERANCE


def test_adapters_that_do_not_fit_whole_are_refused(llava_folder: Path, adapter: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    weights = load_file(broken / "adapter_model.safetensors")
    kept: dict[str, Tensor] = dict(list(weights.items())[1:])
    save_file(kept, broken / "adapter_model.safetensors")
    with pytest.raises(ModelLoadError, match="1 weights do not fit"):
        _load(llava_folder, adapter=str(broken))
    (broken / "adapter_config.json").unlink()
    with pytest.raises(ModelLoadError, match="no adapter that goes on"):
        _load(llava_folder, adapter=str(broken))


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="they load here")
def test_a_processor_that_needs_torchvision_says_so_in_one_line(tmp_path: Path) -> None:
    made = tiny_verifiers.make_onevision()
    for part in (made.model, made.tokenizer, made.processor.image_processor):
        part.save_pretrained(tmp_path)
    with pytest.raises(ModelLoadError, match=r"^.*no usable processor \(some need torchvision\).*$"):
        _load(tmp_path)


def test_models_without_processor_or_chat_template_are_refused(llava_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llava_folder, folder)
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ModelLoadError, match=r"LlavaProcessor has no chat template; .* backend\.chat_template"):
        _load(folder)
    (folder / "processor_config.json").unlink()
    with pytest.raises(ModelLoadError):
        _load(folder)
    with pytest.raises(ModelLoadError, match=r"backend\.chat_template = '.*nowhere\.jinja' cannot be read"):
        _load(llava_folder, chat_template=tmp_path / "nowhere.jinja")
