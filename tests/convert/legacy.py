"""Files in the layouts of the authors' programs and of the port, as a test wants them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cap2im import cli
from cap2im.convert.port import port_shapes
from cap2im.models.aligndraw import DRAWConfig
from tests.parity.golden import Golden


def run(*arguments: object) -> None:
    """Runs `cap2im ARGUMENTS`, which has to end well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["cap2im", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert not stop.value.code


def golden_arrays(file: Golden) -> dict[str, np.ndarray]:
    """The golden weights under the names of the authors' files."""
    return {name.removeprefix("param/"): array for name, array in file.arrays.items() if name.startswith("param/")}


def write_hdf5(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """As the authors' `save_weights` does: one float32 dataset a parameter."""
    h5py = pytest.importorskip("h5py", reason="legacy files need h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, array.shape, dtype="f")[...] = array
    return path


def write_dictionary(path: Path, numbers: Mapping[str, int]) -> Path:
    """A dictionary as Python 2 pickles it in protocol 0, its default: words are the source code of UTF-8 bytes."""
    entries = b"".join(
        b"S" + repr(word.encode())[1:].encode() + b"\np%d\nI%d\ns" % (place, n) for place, (word, n) in enumerate(numbers.items(), 1)
    )
    path.write_bytes(b"(dp0\n" + entries + b".")
    return path


def write_old_pytorch(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A state dict as torch 0.3 saved it under Python 2 on a graphics card: text is bytes, its dictionary a call with lists of pairs."""

    def text(word: str) -> bytes:
        return b"U" + bytes([len(word)]) + word.encode()

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    def numbers(values: Iterable[int]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    def pickled(value: bytes) -> bytes:
        return b"\x80\x02" + value + b"."

    def long(value: int) -> bytes:
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    kinds = {torch.float32: "FloatStorage", torch.int64: "LongStorage"}
    entries, keys, storages = b"", [], b""
    for place, (name, tensor) in enumerate(tensors.items()):
        key = str(94_000_000 + place)
        storage = b"(" + text("storage") + f"ctorch.cuda\n{kinds[tensor.dtype]}\n".encode() + text(key) + text("cuda:0")
        storage += number(tensor.numel()) + b"NtQ"
        built = b"ctorch._utils\n_rebuild_tensor\n(" + storage + number(0) + numbers(tensor.shape) + numbers(tensor.stride()) + b"tR"
        entries += b"](" + text(name) + built + b"e"
        keys.append(text(key))
        storages += tensor.numel().to_bytes(8, "little") + tensor.contiguous().numpy().tobytes()
    state = b"ccollections\nOrderedDict\n](" + entries + b"e\x85R"
    sizes = b"}(" + b"".join(text(kind) + number(size) for kind, size in (("short", 2), ("int", 4), ("long", 4))) + b"u"
    system = b"}(" + text("protocol_version") + number(1001) + text("little_endian") + b"\x88" + text("type_sizes") + sizes + b"u"
    head = pickled(long(0x1950A86A20F9469CFC6C)) + pickled(number(1001)) + pickled(system)
    path.write_bytes(head + pickled(state) + pickled(b"](" + b"".join(keys) + b"e") + storages)
    return path


def port_weights(config: DRAWConfig, windows: str, seed: int = 0) -> dict[str, Tensor]:
    """Random parameters of the port, multiples of 2^-12, so that sums of two are exact in float32."""
    random = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(shape, generator=random) * 1600).round() / 4096 for name, shape in port_shapes(config, windows).items()}


def port_drawing(weights: Mapping[str, Tensor], config: DRAWConfig, windows: str, tokens: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """What the port draws, from its equations: canvases [B, T, C, A, A] before the sigmoid and word weights [B, T, L], in float64.

    Args:
        weights: by the names of its state dict.
        config: sizes.
        windows: "two windows" or "one window".
        tokens: [B, L], captions of one length.
        noise: [B, T, Z].
    """
    c, p = config, {name: tensor.double() for name, tensor in weights.items()}
    batch, side, patch = len(tokens), c.side, c.write_patch
    window_layer, patch_layer = {"two windows": ("w_write_atten", "w_write"), "one window": ("w_dec_attn", "w_dec")}[windows]

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    lstm = torch.nn.LSTM(c.vocabulary_size, c.language_units, batch_first=True).double()
    lstm.load_state_dict({name.removeprefix("lang."): tensor for name, tensor in p.items() if name.startswith("lang.")})
    decoder = torch.nn.LSTMCell(c.latent + 2 * c.language_units, c.generative_units).double()
    decoder.load_state_dict({name.removeprefix("decoder."): tensor for name, tensor in p.items() if name.startswith("decoder.")})

    one_hot = torch.eye(c.vocabulary_size, dtype=torch.float64)[tokens]  # [B, L, V]
    words = torch.cat([lstm(one_hot)[0], lstm(one_hot.flip(1))[0]], dim=2)  # [B, L, D]: what was read last stands last
    hidden = cell = torch.zeros(batch, c.generative_units, dtype=torch.float64)
    canvas = torch.zeros(batch, c.colours, side, side, dtype=torch.float64)
    mean = log_variance = torch.zeros(batch, c.latent, dtype=torch.float64)
    canvases, alphas = [], []
    for eps in noise.double().unbind(1):
        z = mean + (log_variance / 2).exp() * eps
        scores = linear("w_v_align", (linear("w_lang_align", words) + linear("w_dec_align", hidden)[:, None]).tanh()).squeeze(2)
        alpha = scores.softmax(dim=1)  # [B, L]
        hidden, cell = decoder(torch.cat([z, (alpha[:, :, None] * words).sum(1)], dim=1), (hidden, cell))
        mean, log_variance = linear("w_mu_prior", hidden).tanh(), linear("w_logvar_prior", hidden).tanh()
        gx, gy, log_sigma2, log_delta, log_gamma = linear(window_layer, hidden).unbind(1)  # [B] each
        pixel, index = torch.arange(side).double(), torch.arange(patch).double()
        delta = (side - 1) / (patch - 1) * log_delta.exp()
        filters = []
        for centre in (gx, gy):
            mu = (side + 1) / 2 * (centre + 1)[:, None] + (index - patch / 2 - 0.5) * delta[:, None]  # [B, P]
            rows = (-((pixel - mu[:, :, None]) ** 2) / (2 * log_sigma2.exp()[:, None, None])).exp()
            filters.append(rows / (rows.sum(2, keepdim=True) + 1e-4))  # [B, P, A]
        across, down = filters
        drawn = torch.einsum("bpy,bcpq,bqx->bcyx", down, linear(patch_layer, hidden).view(batch, c.colours, patch, patch), across)
        canvas = canvas + drawn / log_gamma.exp()[:, None, None, None]
        canvases.append(canvas)
        alphas.append(alpha)
    return torch.stack(canvases, dim=1), torch.stack(alphas, dim=1)
