"""VadCLIP's learned prompts: the place of every token, the gradient, and a loaded run that needs no tower."""

from __future__ import annotations

import pytest
import torch

from pipelines.encoders._prompts import PromptTower
from pipelines.errors import UsageError
from pipelines.methods import vadclip
from pipelines.methods._base import Resources, Shape
from pipelines.recipe import resolve

WIDTH, SOS, EOS = 16, 30, 31
WORDS = ("normal", "fire", "car accident")
VOCABULARY = {"normal": 1, "fire": 2, "car": 3, "accident": 4}


def tokenize(text: str) -> dict[str, list[int]]:
    return {"input_ids": [SOS, *(VOCABULARY[word] for word in text.split()), EOS]}


def clip_text(rows: int = 77):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = CLIPTextConfig(
            vocab_size=32, hidden_size=WIDTH, intermediate_size=32, projection_dim=WIDTH, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=rows, bos_token_id=SOS, eos_token_id=EOS,
        )  # fmt: skip
        return CLIPTextModelWithProjection(config)


def made(words: tuple[str, ...] = WORDS) -> vadclip.VadClip:
    config, _ = resolve(
        vadclip.Config, [("test", {"width": WIDTH, "lgt": {"layers": 1, "max_clips": 16}, "data": {"size": 16}})]
    )
    text = torch.eye(len(words), WIDTH).numpy()
    tower = PromptTower(clip_text(), tokenize, words)
    shape = Shape(WIDTH, {"x": slice(0, WIDTH)}, words, ("center",), 16, 16)
    torch.manual_seed(1)
    return vadclip.build(config, shape, Resources(text={"classes": text}, extras={"prompt_tower": tower}))


def test_tokens_stand_where_the_public_code_puts_them():
    tower = PromptTower(clip_text(), tokenize, WORDS)
    two = tower.ids[2]  # [SOS] 10 learned [car accident] 10 learned [EOS]
    assert two[0] == SOS and two[11:13].tolist() == [3, 4] and two[23] == EOS
    assert tower.own[2].nonzero().flatten().tolist() == [0, 11, 12, 23]


def test_without_learned_tokens_it_is_the_plain_text_tower():
    model = clip_text()
    plain = PromptTower(model, tokenize, WORDS, prefix=0, postfix=0)(torch.randn(77, WIDTH))
    for row, text in enumerate(WORDS):
        expected = model(input_ids=torch.tensor([tokenize(text)["input_ids"]])).text_embeds[0]
        assert torch.allclose(plain[row], expected, atol=1e-5)  # what stands after EOS changes nothing


def test_the_gradient_reaches_learned_rows_up_to_the_eos_and_never_the_tower():
    tower = PromptTower(clip_text(), tokenize, WORDS)
    context = torch.randn(77, WIDTH, requires_grad=True)
    tower(context)[0].sum().backward()
    reached = context.grad.norm(dim=1) > 0
    assert reached[1:11].all() and reached[12:22].all()
    assert not reached[0] and not reached[11] and not reached[22:].any()
    assert all(p.grad is None and not p.requires_grad for p in tower.model.parameters())


def test_an_over_long_prompt_is_refused():
    with pytest.raises(UsageError, match="4 fit beside 20 learned"):
        PromptTower(clip_text(26), tokenize, ("fire fire fire fire fire",))


def test_the_towers_weights_are_not_the_methods():
    net = made()
    assert not [key for key in net.state_dict() if "text_model" in key]
    assert "prompt" in dict(net.named_parameters())


def test_saved_class_text_is_that_of_the_last_prompt_and_needs_no_tower():
    net = made()
    before = net.state_dict()["class_text"].clone()
    with torch.no_grad():
        net.prompt.add_(torch.randn_like(net.prompt))  # a step
    state = net.state_dict()
    assert not torch.allclose(state["class_text"], before)
    assert torch.allclose(state["class_text"], net.tower(net.prompt), atol=1e-6)
    text = torch.eye(len(WORDS), WIDTH).numpy()
    stored = Resources(text={"classes": text}, extras={"stored": frozenset(state)})
    shape = Shape(WIDTH, {"x": slice(0, WIDTH)}, WORDS, ("center",), 16, 16)
    loaded = vadclip.build(net.config, shape, stored)
    loaded.load_state_dict(state)
    x, mask = torch.randn(1, 5, WIDTH), torch.ones(1, 5, dtype=torch.bool)
    with torch.no_grad():
        assert torch.allclose(loaded.eval().branches(x, mask)[2], net.eval().branches(x, mask)[2], atol=1e-5)


def test_a_tower_of_another_width_is_refused_with_the_setting():
    config, _ = resolve(vadclip.Config, [("test", {"width": 32})])
    tower = PromptTower(clip_text(), tokenize, WORDS)
    shape = Shape(32, {"x": slice(0, 32)}, WORDS, ("center",), 16, 16)
    resources = Resources(text={"classes": torch.eye(3, 16).numpy()}, extras={"prompt_tower": tower})
    with pytest.raises(UsageError, match="width=32") as raised:
        vadclip.build(config, shape, resources)
    assert "--set width=16" in raised.value.hint
