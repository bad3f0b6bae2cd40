"""Sentence encoders: one interface, vectors that do not depend on their company, and nothing that comes with a model is executed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cap2im.checkpoint import read_config, write_model
from cap2im.data.sentence_batches import sentence_vocabulary
from cap2im.data.sentence_vectors import SentenceEncoder
from cap2im.data.vocabulary import Vocabulary
from cap2im.encoder_files import copy_encoder
from cap2im.models.aligndraw import DRAW, DRAWConfig
from cap2im.models.skipthoughts import SkipThoughts, SkipThoughtsConfig
from cap2im.pipeline import Pipeline
from cap2im.sentence_encoders import load_sentence_encoder
from tests.limits import GIB, run_limited

CAPTIONS = ["a dog .", "a red dog runs over the table .", "the table is red .", "red ."]
WORDS = ("a", "dog", "red", "runs", "over", "the", "table", "is", ".")


def skipthoughts(folder: Path, *more: str) -> Path:
    """Untrained skip-thoughts; with the vector of dog for more words, but for its last number."""
    torch.manual_seed(0)
    config = SkipThoughtsConfig(uni=6, bi=4, embedding=5)
    vocabulary = sentence_vocabulary([*CAPTIONS, *more], 100)
    weights = SkipThoughts(config, len(vocabulary)).state_dict()
    for word in more:
        for name in ("uni", "bi"):
            table = weights[f"encoders.{name}.table.weight"]
            table[vocabulary.numbers[word], :4] = table[vocabulary.numbers["dog"], :4]
    folder.mkdir()
    write_model(folder, weights, {"kind": "skipthoughts", "model": config.model_dump(), "vocabulary": vocabulary.model_dump()})
    return folder


def sentence_transformer(folder: Path) -> Path:
    """An untrained BERT of two layers, with mean pooling."""
    library = pytest.importorskip("sentence_transformers", reason="the extra sentences is not installed")
    from transformers import BertConfig, BertModel, BertTokenizer

    bert = folder.with_name("bert")
    bert.mkdir()
    (bert / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizer(str(bert / "vocab.txt")).save_pretrained(bert)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=14, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, max_position_embeddings=32
    )
    BertModel(config).save_pretrained(bert)
    library.SentenceTransformer(str(bert), device="cpu").save(str(folder))  # adds the mean of the words
    return folder


def clip(folder: Path) -> Path:
    """The untrained text tower of a CLIP."""
    pytest.importorskip("transformers", reason="the extra sentences is not installed")
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    folder.mkdir()
    pieces = [*(chr(c) for c in range(97, 123)), *(f"{chr(c)}</w>" for c in range(97, 123)), ".</w>"]
    words = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(str(folder)).save_pretrained(folder)
    torch.manual_seed(0)
    end = len(words) - 1
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        projection_dim=6,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


MAKERS = {"skip-thoughts": (skipthoughts, 14), "sentence-transformers": (sentence_transformer, 8), "clip": (clip, 6)}


@pytest.fixture(scope="module", params=MAKERS)
def encoder(request, tmp_path_factory) -> tuple[SentenceEncoder, int]:
    make, features = MAKERS[request.param]
    return load_sentence_encoder(str(make(tmp_path_factory.mktemp(request.param) / "mine"))), features


def test_interface(encoder):
    encoder, features = encoder
    vectors = encoder.encode(CAPTIONS)
    assert (encoder.name, encoder.features) == ("mine", features)
    assert vectors.shape == (4, features)
    assert (vectors.dtype, vectors.device.type, vectors.requires_grad) == (torch.float32, "cpu", False)
    (vectors + 0).requires_grad_()  # not an inference tensor: training may use it
    assert encoder.encode([]).shape == (0, features)


def test_a_vector_does_not_depend_on_its_batch(encoder):
    encoder, _ = encoder
    captions = [*CAPTIONS, *[f"{'the red ' * (n % 9)}dog ." for n in range(100)]]  # more than one batch
    together = encoder.encode(captions)
    torch.testing.assert_close(encoder.encode(captions[::-1]).flip(0), together, rtol=1e-4, atol=1e-5)
    for row, caption in enumerate(CAPTIONS):
        torch.testing.assert_close(encoder.encode([caption])[0], together[row], rtol=1e-4, atol=1e-5)
        others = [i for i in range(len(CAPTIONS)) if i != row]
        assert ((together[others] - together[row]).norm(dim=1) > 1e-3).all(), "captions differ"


def test_empty_captions_are_refused(encoder):
    with pytest.raises(ValueError, match="a caption is empty"):
        encoder[0].encode(["a dog .", " "])


def test_clip_truncates_long_captions(tmp_path):
    encoder = load_sentence_encoder(str(clip(tmp_path / "clip")))
    assert torch.isfinite(encoder.encode(["dog " * 100])).all()


def test_nearest_words_have_the_largest_cosine(tmp_path):
    encoder = load_sentence_encoder(str(skipthoughts(tmp_path / "mine", "puppy")))
    assert encoder.nearest("puppy", [*WORDS, "puppy", "yak"])[0] == "dog"
    tables = [each.table.weight for each in encoder.model.encoders_by_name().values()]
    vectors = {word: torch.cat([table[encoder.vocabulary.numbers[word]] for table in tables]) for word in WORDS}
    cosine = {word: torch.cosine_similarity(vector, vectors["red"], dim=0) for word, vector in vectors.items() if word != "red"}
    assert encoder.nearest("red", WORDS, 4) == sorted(cosine, key=cosine.__getitem__, reverse=True)[:4]
    assert encoder.nearest("zebra", WORDS) == encoder.nearest("UNK", WORDS) == encoder.nearest("dog", ["yak"]) == []


@pytest.mark.parametrize("more", [["--model", "m"], ["--model", "m", "--json"]])
def test_draw_names_words_outside_of_the_training_captions(tmp_path, monkeypatch, run, more):
    monkeypatch.chdir(tmp_path)
    config = DRAWConfig(
        conditioning="sentence", sentence_features=14, side=8, colours=3, glimpses=2, inference_units=4, generative_units=4, latent=2
    )
    model = {"kind": "draw", "model": config.model_dump(), "vocabulary": Vocabulary.build(CAPTIONS).model_dump()}
    Path("m").mkdir()
    write_model(Path("m"), DRAW(config).state_dict(), model)
    skipthoughts(Path("m/sentence-encoder"), "puppy")
    code, _, err = run("draw", "a red puppy runs over the tabel with an okapi", "--samples", "1", "--only", "png", *more)
    assert code == 0
    note = " is not among the words of the training captions"
    words = dict(line.split(note) for line in err.splitlines() if note in line)
    assert set(words) == {"puppy", "tabel", "with", "an", "okapi"}
    assert "dog" in words["puppy"], "by meaning"
    assert words["tabel"].startswith(" (nearest: table")
    assert words["okapi"] == ""
    read = Pipeline.load("m")
    assert read.unknown_words("a puppy") == []
    assert read.untrained_words("a puppy") == ["puppy"]


def test_unknown_words_are_encoded_as_unk(tmp_path):
    encoder = load_sentence_encoder(str(skipthoughts(tmp_path / "mine")))
    one, two = encoder.encode(["a zebra .", "a yak ."])
    torch.testing.assert_close(one, two)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"no sentence encoder in this folder"),
        ({"config.json": {"model_type": "llama"}}, r"no sentence encoder in this folder"),
        ({"config.json": {"format": 1, "kind": "draw"}}, r"no SHA-256 for config.json"),
        *(
            ({"modules.json": broken}, r"modules\.json: (0|Input should be a valid|lists no modules)")
            for broken in (["a"], {"a": 1}, [], 3, [{"path": 1}])
        ),
        ({"modules.json": [{"type": "sentence_transformers.models.Dense", "path": "../x"}]}, r"module '../x' is outside of the folder"),
        ({"modules.json": [{"type": "evil.Module", "path": ""}]}, r"modules.json: module 'evil.Module': allowed are Transformer, Pooling"),
        ({"modules.json": [{"type": "sentence_transformers_evil.Pooling", "path": ""}]}, r"allowed are Transformer"),
        ({"modules.json": [{"type": "sentence_transformers.models.WordEmbeddings", "path": ""}]}, r"allowed are Transformer"),
        (
            {"modules.json": [{"type": "sentence_transformers.models.Dense", "path": "d"}], "d/pytorch_model.bin": {}},
            r"weights are in pytorch_model.bin, which is a pickle; only safetensors",
        ),
        ({"config.json": {"model_type": "clip"}, "pytorch_model.bin": {}}, r"which is a pickle; only safetensors files are read"),
        ({"config.json": {"model_type": "clip"}}, r"cannot be read: "),
    ],
)
def test_damaged_folders_are_refused(tmp_path, files, message):
    if any("modules" in name for name in files):
        pytest.importorskip("sentence_transformers", reason="the extra sentences is not installed")
    if files.get("config.json", {}).get("model_type") == "clip":
        pytest.importorskip("transformers", reason="the extra sentences is not installed")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        load_sentence_encoder(str(tmp_path))
    assert "\n" not in str(error.value)


def test_code_beside_a_model_is_not_run(tmp_path):
    folder = clip(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "code.Model", "AutoTokenizer": "code.Tokenizer", "AutoConfig": "code.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with contextlib.suppress(ValueError):  # it may be refused, or read as the CLIP that it is
        load_sentence_encoder(str(folder))
    assert not (tmp_path / "ran").exists()


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("links", [True, False])
def test_a_copy_leaves_out_the_training_state(tmp_path, monkeypatch, kind, links):
    source = MAKERS[kind][0](tmp_path / "mine")
    (source / "README.md").write_text("a card")
    whole = files(source)
    (source / "onnx").mkdir()
    strays = ["training.safetensors", "training.json"] if kind == "skip-thoughts" else ["optimizer.pt", "code.py", "onnx/model.safetensors"]
    for name in strays:
        (source / name).write_bytes(b"of its training")
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    copy_encoder(source, tmp_path / "copy")
    assert files(tmp_path / "copy") == whole
    assert (tmp_path / "copy" / "model.safetensors").samefile(source / "model.safetensors") == links
    ours, theirs = load_sentence_encoder(str(tmp_path / "copy")), load_sentence_encoder(str(source))
    assert torch.equal(ours.encode(CAPTIONS), theirs.encode(CAPTIONS))
    assert ours.sha256 == theirs.sha256


def test_a_copy_from_the_hubs_cache_holds_no_symbolic_links(tmp_path):
    source, cached = skipthoughts(tmp_path / "blobs"), tmp_path / "snapshot"
    cached.mkdir()
    for name in files(source):
        (cached / name).symlink_to(source / name)
    copy_encoder(cached, tmp_path / "copy")
    assert files(tmp_path / "copy") == files(source)
    assert not any(path.is_symlink() for path in (tmp_path / "copy").iterdir())


@pytest.mark.parametrize("kind", MAKERS)
def test_other_weights_have_another_sha256(tmp_path, kind):
    make, _ = MAKERS[kind]
    folder = make(tmp_path / "mine")
    before = load_sentence_encoder(str(folder)).sha256
    weights = load_file(folder / "model.safetensors")
    if kind == "skip-thoughts":
        config = read_config(folder)
        assert before == config["sha256"]["model.safetensors"]
        write_model(folder, {name: tensor + 1 for name, tensor in weights.items()}, config)
    else:
        save_file({name: tensor + 1 for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    after = load_sentence_encoder(str(folder)).sha256
    assert len(after) == len(before) == 64
    assert after != before


def test_unknown_name():
    with pytest.raises(ValueError, match="unknown sentence encoder 'nothing'; give a folder, or OWNER/NAME"):
        load_sentence_encoder("nothing")


def test_a_download_is_announced(monkeypatch, caplog):
    caplog.set_level("INFO", "cap2im")
    asked = {}

    def nowhere(repository, **patterns):
        assert "looking for owner/name on the Hugging Face hub" in caplog.text
        asked.update(patterns)
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nowhere)
    with pytest.raises(ValueError, match="cannot be downloaded from the Hugging Face hub: no network"):
        load_sentence_encoder("owner/name")
    assert not [pattern for pattern in asked["allow_patterns"] if pattern.endswith((".py", ".bin", "*"))]


WITHOUT = """
import sys
sys.modules["transformers"] = sys.modules["sentence_transformers"] = None  # as if not installed
from cap2im.sentence_encoders import load_sentence_encoder
print(load_sentence_encoder(sys.argv[1]).encode(["a dog ."]).shape[1])
for folder in sys.argv[2:]:
    try:
        load_sentence_encoder(folder)
    except ValueError as error:
        print(error)
"""


def test_missing_packages_are_named(tmp_path):
    mine, modules, tower = skipthoughts(tmp_path / "mine"), tmp_path / "modules", tmp_path / "tower"
    for folder, name, content in ((modules, "modules.json", "[]"), (tower, "config.json", '{"model_type": "clip"}')):
        folder.mkdir()
        (folder / name).write_text(content)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(mine), str(modules), str(tower)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    features, *told = done.stdout.splitlines()
    assert features == "14"
    assert len(told) == 2
    assert all("needs more than the core" in line and '"cap2im[sentences]"' in line for line in told)


HUGE_CONFIGS = {
    "clip": [
        ("vocab_size", 10**9),
        ("hidden_size", 2 * 10**5),
        ("max_position_embeddings", 10**10),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", 10**9),
        ("projection_dim", 10**10),
    ],
    "sentence-transformers": [
        ("vocab_size", 10**9),
        ("hidden_size", 2 * 10**5),
        ("max_position_embeddings", 10**10),
        ("num_hidden_layers", 10**9),
        ("intermediate_size", 10**9),
    ],
}


LOADS = """
import sys
from cap2im.sentence_encoders import load_sentence_encoder
for folder in sys.argv[1:]:
    try:
        load_sentence_encoder(folder)
    except ValueError as error:
        print(error)
"""


def test_huge_configs_are_refused(tmp_path):
    folders = []
    for kind, fields in HUGE_CONFIGS.items():
        for field, value in fields:
            parent = tmp_path / kind / field
            parent.mkdir(parents=True)
            folder = MAKERS[kind][0](parent / "mine")
            config = json.loads((folder / "config.json").read_text("utf-8"))
            (folder / "config.json").write_text(json.dumps(config | {field: value}), "utf-8")
            folders.append(str(folder))
    ended = run_limited(*folders, cwd=tmp_path, cpu=60, code=LOADS)
    assert ended.status == 0, ended.err
    lines = ended.out.splitlines()
    assert len(lines) == len(folders)
    assert all("more parameters than the weights hold" in line for line in lines), lines
    assert ended.peak < GIB


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["clip", "sentence-transformers"])
def test_encoder_fifos_are_refused(tmp_path, kind, name):
    folder = MAKERS[kind][0](tmp_path / "mine")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(ValueError, match=r"FIFO|no sentence encoder"):
        load_sentence_encoder(str(folder))


@pytest.mark.parametrize("function", ["torch.utils.collect_env.main", "torch.hub.list", "os.getcwd", 5, None])
def test_dense_calls_no_other_functions(tmp_path, function):
    folder = sentence_transformer(tmp_path / "mine")
    (folder / "2_Dense").mkdir()
    (folder / "2_Dense" / "config.json").write_text(
        json.dumps({"in_features": 8, "out_features": 4, "bias": True, "activation_function": function})
    )
    save_file({"linear.weight": torch.zeros(4, 8), "linear.bias": torch.zeros(4)}, folder / "2_Dense" / "model.safetensors")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="activation_function"):
        load_sentence_encoder(str(folder))
    config = {"in_features": 8, "out_features": 4, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config))
    assert load_sentence_encoder(str(folder)).features == 4
    (folder / "2_Dense" / "config.json").write_text(json.dumps(config | {"in_features": 10**4, "out_features": 10**4}))
    with pytest.raises(ValueError, match="more parameters than the weights hold"):
        load_sentence_encoder(str(folder))
