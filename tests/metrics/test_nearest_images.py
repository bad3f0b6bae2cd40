"""The nearest images are those of a full search."""

from __future__ import annotations

import pytest
import torch

from cap2im.metrics.nearest_images import nearest_images


def test_nearest_images(monkeypatch):
    torch.manual_seed(1)
    images = torch.randint(256, (30, 3, 5, 5), dtype=torch.uint8)
    pictures = torch.rand(4, 3, 5, 5)
    pictures[2] = images[17].float() / 255
    monkeypatch.setattr("cap2im.metrics.nearest_images.IMAGES_AT_ONCE", 7)
    rows, distances = nearest_images(pictures, images)
    exact = torch.cdist(pictures.flatten(1).double(), images.flatten(1).double() / 255).min(dim=1)
    assert torch.equal(rows, exact.indices)
    torch.testing.assert_close(distances, exact.values, atol=1e-6, rtol=1e-6)
    assert (int(rows[2]), round(distances[2].item(), 6)) == (17, 0.0)
    with pytest.raises(ValueError, match="cannot be compared"):
        nearest_images(pictures, images[:, :1])
