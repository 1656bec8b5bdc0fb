"""Prompts: the same embeddings as the plain encoder, cached, with no text encoder left behind."""

import gc
import json
import os
import sys
import types
import weakref

import pytest
import torch
from jsonargparse import ArgumentParser
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from ctsr_lightning.images import upsample
from ctsr_lightning.prompts import FixedPrompt, NoPrompt, TextPrompt
from ctsr_lightning.prompts.base import CaptionPrompt, Prompt, TaggedPrompt
from ctsr_lightning.prompts.captions import find_caption, read_captions, write_captions
from ctsr_lightning.prompts.taggers import MEAN, STD, ImageTagger, RAMTagger
from ctsr_lightning.prompts.text_embeddings import TextEmbeddings
from helpers.config_runs import write_base

LQ = torch.zeros(2, 3, 8, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        return str(write_base(tmp_path_factory.mktemp("base")))


@pytest.fixture
def plain(base):
    """The encoder as its own library loads it."""
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").eval()

    def embed(text):
        tokens = tokenizer(text, padding="max_length", max_length=8, truncation=True, return_tensors="pt")
        with torch.no_grad():
            return encoder(tokens.input_ids)[0][0]

    assert not torch.allclose(embed(""), embed("a"))
    return embed


@pytest.fixture
def encoders(monkeypatch):
    """Weak references to all text encoders that are built."""
    built = []
    build = CLIPTextModel.__init__

    def watched(self, *args, **options):
        build(self, *args, **options)
        built.append(weakref.ref(self))

    monkeypatch.setattr(CLIPTextModel, "__init__", watched)
    return built


class Brightness(ImageTagger):
    """Says `a` of bright images."""

    def __init__(self):
        self.asked = 0

    def tags(self, images):
        self.asked += 1
        return ["a" if image.mean() > 0.5 else "" for image in images]


def captions(tmp_path, **texts):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(texts))
    return path


# --- embeddings ---


@pytest.mark.slow
def test_text_prompt_is_the_plain_encoder_s(base, plain, tmp_path):
    for text in ("", "a", "a a a a a a a a a a"):
        for cache in (None, tmp_path / "cache", tmp_path / "cache"):
            prompt = TextPrompt(base, text, cache)
            assert torch.equal(prompt(LQ), plain(text).expand(2, 8, 8))
    assert not prompt.state_dict()
    assert NoPrompt()(LQ, ["x", "y"]) is None


@pytest.mark.parametrize("kind", ["text", "caption", "tagged"])
def test_no_text_encoder_is_left_in_memory(base, tmp_path, encoders, kind):
    cache = tmp_path / "cache"
    if kind == "text":
        prompt = TextPrompt(base, "a", cache)
    elif kind == "caption":
        prompt = CaptionPrompt(captions(tmp_path, x="a", y="a a"), base, cache)
    else:
        prompt = TaggedPrompt(Brightness(), base, cache)
    prompt(LQ, ["x", "y"])
    assert len(encoders) == 1
    assert encoders[0]() is None
    assert not any(type(thing).__name__.startswith("CLIPTextModel") for thing in gc.get_objects())
    assert not list(prompt.parameters())
    assert not prompt.state_dict()
    assert sum(buffer.numel() for buffer in prompt.buffers()) <= 8 * 8


@pytest.mark.slow
def test_encoder_is_loaded_only_for_what_the_cache_lacks(base, tmp_path, encoders):
    embeddings = TextEmbeddings(base, tmp_path)
    assert embeddings.prepare(["a", "", "a"]) == 2
    assert len(encoders) == 1
    assert embeddings.prepare(["", "a"]) == 0
    both = embeddings(["a", "", "a"])
    assert len(encoders) == 1
    assert both.shape == (3, 8, 8)
    assert torch.equal(both[0], both[2])
    assert not torch.equal(both[0], both[1])
    more = embeddings(["a a", "a"])
    assert len(encoders) == 2
    assert torch.equal(more[1], both[0])
    assert torch.equal(more[0], TextEmbeddings(base)(["a a"])[0])
    assert not list(tmp_path.rglob("*.part*"))


def test_cache_file_is_a_fixed_prompt(base, tmp_path):
    made = TextPrompt(base, "a", tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    assert torch.equal(FixedPrompt(file)(LQ), made(LQ))
    save_file({"tokens": torch.zeros(2)}, tmp_path / "prompt.safetensors")
    with pytest.raises(ValueError, match="'embedding' of shape"):
        FixedPrompt(tmp_path / "prompt.safetensors")
    (tmp_path / "prompt.safetensors").write_bytes(b"cut short")
    with pytest.raises(ValueError, match=r"tensor 'embedding' at .*prompt\.safetensors', but it cannot be read safely"):
        FixedPrompt(tmp_path / "prompt.safetensors")


@pytest.mark.parametrize("change", ["weights", "config", "tokenizer"])
def test_another_encoder_has_another_cache(tmp_path, encoders, change):
    base = write_base(tmp_path / "base")
    before = TextPrompt(str(base), "a", tmp_path / "cache").embedding
    encoders.clear()
    weights = base / "text_encoder" / "model.safetensors"
    if change == "weights":
        save_file({k: v + 1 for k, v in load_file(weights).items()}, weights)
        facts = weights.stat()
        os.utime(weights, ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    elif change == "config":
        path = base / "text_encoder" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "hidden_act": "gelu"}))
    else:
        path = base / "tokenizer" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "a"}))
    after = TextPrompt(str(base), "a", tmp_path / "cache").embedding
    assert len(encoders) == 1
    assert not torch.equal(before, after)


def test_random_numbers_go_on_as_without_an_encoder(base):
    before = torch.get_rng_state()
    TextPrompt(base, "a")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_embeddings_follow_the_module(base, tmp_path):
    for prompt in (
        CaptionPrompt(captions(tmp_path, x="a", y=""), base, tmp_path),
        TaggedPrompt(Brightness(), base),
        TextPrompt(base),
    ):
        assert prompt(LQ, ["x", "y"]).dtype == torch.float32
        assert prompt.to(torch.bfloat16)(LQ, ["x", "y"]).dtype == torch.bfloat16


def test_damaged_cache_file_is_named(base, tmp_path):
    TextPrompt(base, "a", tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match=rf"{file.name}' cannot be read.*Delete it"):
        TextPrompt(base, "a", tmp_path)


def test_what_is_missing_of_the_encoder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no text_encoder/config\.json, no .*, no tok"):
        TextPrompt(str(tmp_path))
    base = write_base(tmp_path / "base")
    with pytest.raises(ValueError, match="set `cache`"):
        TextEmbeddings(str(base)).prepare([""])
    weights = base / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    save_file({k: v for k, v in state.items() if "layer_norm" not in k}, weights)
    with pytest.raises(ValueError, match=r"Expected the weights of the text encoder in .*model\.safetensors"):
        TextPrompt(str(base))
    weights.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Expected a file of weights"):
        TextPrompt(str(base))


def test_names_without_prefix_and_half_precision_are_read(tmp_path):
    base = write_base(tmp_path / "base")
    before = TextPrompt(str(base), "a").embedding
    weights = base / "text_encoder" / "model.safetensors"
    state = load_file(weights)
    prefix = "text_model."
    turned = {k.removeprefix(prefix) if k.startswith(prefix) else prefix + k: v.half() for k, v in state.items()}
    save_file({**turned, "text_model.embeddings.position_ids": torch.arange(8)}, weights)
    assert torch.allclose(TextPrompt(str(base), "a").embedding, before, atol=2e-2)


# --- captions ---


def test_captions_belong_to_their_images(base, plain, tmp_path, encoders):
    path = captions(tmp_path, **{"photos/one.png": "a", "two": "", "v1.5": "a a"})
    prompt = CaptionPrompt(path, base, tmp_path / "cache")
    assert torch.equal(prompt(LQ, ["two", "photos/one"]), torch.stack([plain(""), plain("a")]))
    assert torch.equal(prompt(LQ[:1], ["v1.5"])[0], plain("a a"))
    assert prompt.texts(["v1.5_2", "photos/one_1"], 2) == ["a a", "a"]
    with pytest.raises(ValueError, match="'two_x'"):
        prompt.texts(["two_x"], 1)
    encoders.clear()
    CaptionPrompt(path, base, tmp_path / "cache")(LQ, ["two", "photos/one"])
    assert not encoders


def test_image_without_a_text_is_an_error_unless_there_is_a_fallback(base, plain, tmp_path):
    path = captions(tmp_path, one="a")
    strict = CaptionPrompt(path, base, tmp_path)
    with pytest.raises(ValueError, match=r"none for the image 'two' \(it names 1 images, 'one' first\)"):
        strict(LQ, ["one", "two"])
    with pytest.raises(ValueError, match="none for a call without keys"):
        strict(LQ)
    lenient = CaptionPrompt(path, base, tmp_path, fallback="")
    assert torch.equal(lenient(LQ, ["one", "one_2"]), torch.stack([plain("a"), plain("a")]))
    with pytest.warns(UserWarning, match=r"none for the image 'two' .*have the prompt ''.*--prompt FILE") as warned:
        embedded = lenient(LQ, ["one", "two"])
    assert torch.equal(embedded, torch.stack([plain("a"), plain("")]))
    assert torch.equal(lenient(LQ), torch.stack([plain("")] * 2))  # said once: a second warning would be an error
    assert len(warned) == 1


def test_caption_lines_are_read(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text("\ufeffa\\b.JPG\ta dog, a cat\n\nc\t\nd.e\tx\ty\n", encoding="utf-8")
    assert read_captions(path) == {"a/b": "a dog, a cat", "c": "", "d.e": "x\ty"}


def test_images_that_differ_in_their_suffix_keep_their_texts(tmp_path):
    path = tmp_path / "captions.json"
    texts = {"a.png": "a dog", "a.jpg": "a cat", "b.png": "sea", "e\u0301": "accent", "c.d": "dots"}
    write_captions(path, texts)
    captions = read_captions(path)
    found = [find_caption(captions, key) for key in ("a.png", "a.jpg", "b", "b.png", "b_2", "\u00e9", "c.d", "a", "c")]
    assert found == ["a dog", "a cat", "sea", "sea", "sea", "accent", "dots", None, None]
    write_captions(path, captions)
    assert read_captions(path) == captions


@pytest.mark.parametrize("suffix", [".json", ".tsv", ".txt"])
def test_captions_are_written_as_they_are_read(tmp_path, suffix):
    path, texts = tmp_path / "new" / f"captions{suffix}", {"photos/one": "a dog, \u00fc", "two": ""}
    write_captions(path, texts)
    assert read_captions(path) == texts
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.txt", "one: a dog", "image<TAB>text in line 1"),
        ("c.txt", "one\ta\none.png\tb", "found two for 'one'"),
        ("c.json", '{"one": "a", "one": "b"}', "found two for 'one'"),
        ("c.json", "{", "found no JSON"),
        ("c.json", '["one"]', "Expected a JSON object"),
        ("c.json", '[["one", "a"]]', "Expected a JSON object"),
        ("c.json", '{"one": {"text": "a"}}', "Expected a JSON object"),
        ("c.json", "{}", "Expected a JSON object"),
        ("c.json", "3", "Expected a JSON object"),
    ],
)
def test_unreadable_captions_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / name)


def test_missing_captions_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"caption file at '.*none\.json'"):
        read_captions(tmp_path / "none.json")


# --- tags ---


def test_tags_are_each_image_s_own(base, plain, tmp_path):
    prompt = TaggedPrompt(Brightness(), base, tmp_path, template="{tags} a")
    images = torch.stack([torch.ones(3, 8, 8), torch.zeros(3, 8, 8)])
    assert torch.equal(prompt(images), torch.stack([plain("a a"), plain(" a")]))


class Sizes(ImageTagger):
    """Remembers what it is shown."""

    def __init__(self):
        self.shown = []

    def tags(self, images):
        self.shown.append(images)
        return ["a"] * len(images)


def test_the_tagger_sees_the_enlarged_image(base):
    tagger, images = Sizes(), torch.rand(2, 3, 8, 6)
    TaggedPrompt(tagger, base)(images)
    TaggedPrompt(tagger, base, scale=1)(images)
    assert torch.equal(tagger.shown[0], upsample(images, 4))
    assert torch.equal(tagger.shown[1], images)


def test_template_and_count_are_checked(base):
    with pytest.raises(ValueError, match=r"with '\{tags\}'"):
        TaggedPrompt(Brightness(), base, template="tags")

    class Short(Brightness):
        def tags(self, images):
            return ["a"]

    with pytest.raises(ValueError, match="tags of 2 images from Short, found 1"):
        TaggedPrompt(Short(), base)(LQ)


class ToyRAM(nn.Module):
    """What the package `ram` gives: a network with `generate_tag`."""

    def __init__(self, answer=None):
        super().__init__()
        self.weight, self.seen, self.answer = nn.Parameter(torch.zeros(1)), [], answer

    def generate_tag(self, image):
        self.seen.append(image)
        return self.answer or (["dog | cat", "sky, sea"], ["", ""])


@pytest.fixture
def ram(monkeypatch):
    """A package `ram` of toys that remembers how it was asked."""
    calls = []

    def build(**options):
        network = ToyRAM()
        calls.append((options, network))
        return network

    for name in ("ram", "ram.models", "ram.models.ram_lora"):
        module = types.ModuleType(name)
        module.ram = build
        monkeypatch.setitem(sys.modules, name, module)
    return calls


@pytest.fixture
def weights(tmp_path):
    paths = [tmp_path / "ram_swin_large_14m.pth", tmp_path / "DAPE.pth"]
    for path in paths:
        torch.save({"model": {"a": torch.zeros(1)}}, path)
    return paths


@pytest.mark.parametrize("adapted", [True, False])
def test_ram_is_asked_as_its_programs_ask_it(ram, weights, base, adapted):
    tagger = RAMTagger(weights[0], weights[1] if adapted else None)
    assert not ram
    images = torch.rand(2, 3, 20, 30)
    assert tagger.tags(images) == ["dog, cat", "sky, sea"]
    tagger.tags(images)
    ((options, network),) = ram
    files = {"pretrained": str(weights[0])} | ({"pretrained_condition": str(weights[1])} if adapted else {})
    assert options == {**files, "image_size": 384, "vit": "swin_l"}
    seen = network.seen[0] * torch.tensor(STD).view(1, 3, 1, 1) + torch.tensor(MEAN).view(1, 3, 1, 1)
    assert seen.shape == (2, 3, 384, 384)
    assert torch.allclose(seen.mean((2, 3)), images.mean((2, 3)), atol=0.02)
    assert not network.training
    prompt = TaggedPrompt(tagger, base)
    assert prompt(images).shape == (2, 8, 8)
    assert not list(prompt.parameters())


def test_configurations_name_prompts_and_taggers(ram, weights, base, tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--prompt", type=Prompt)
    instantiate = getattr(parser, "instantiate", parser.instantiate_classes)  # the old name, before 4.49
    tagger = {"class_path": "RAMTagger", "init_args": {"weights": str(weights[0]), "dape": str(weights[1])}}
    options = {"path": base, "cache": str(tmp_path / "cache"), "tagger": tagger, "template": "{tags}, ,"}
    built = instantiate(parser.parse_object({"prompt": {"class_path": "TaggedPrompt", "init_args": options}}))
    assert built.prompt(LQ).shape == (2, 8, 8)
    options = {"path": base, "cache": str(tmp_path / "cache"), "captions": str(captions(tmp_path, x="a"))}
    read = parser.parse_object({"prompt": {"class_path": "CaptionPrompt", "init_args": options}})
    assert instantiate(read).prompt(LQ[:1], ["x"]).shape == (1, 8, 8)


@pytest.mark.parametrize(("adapted", "remedy"), [(True, "PYTHONPATH"), (False, "pip install")])
def test_missing_package_is_named(monkeypatch, weights, adapted, remedy):
    monkeypatch.setitem(sys.modules, "ram", None)
    with pytest.raises(ImportError, match=remedy):
        RAMTagger(weights[0], weights[1] if adapted else None)
    strange = types.ModuleType("ram")  # another package of this name
    monkeypatch.setitem(sys.modules, "ram", strange)
    with pytest.raises(ImportError, match="needs the function `ram`"):
        RAMTagger(weights[0], weights[1] if adapted else None)


def test_missing_and_dangerous_weights_are_named(ram, tmp_path, weights):
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        RAMTagger(tmp_path / "none.pth")

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    torch.save(Trap(), weights[1])
    with pytest.raises(ValueError, match=r"DAPE\.pth', but it cannot be read safely"):
        RAMTagger(*weights).tags(LQ)
    assert not (tmp_path / "sprung").exists()
    assert not ram


def test_unknown_answers_of_ram_are_named(monkeypatch, ram, weights):
    monkeypatch.setattr(sys.modules["ram.models"], "ram", lambda **options: ToyRAM([("dog", 0.5), ("cat", 0.1)]))
    with pytest.raises(ValueError, match="one text of tags per image"):
        RAMTagger(weights[0]).tags(LQ)
