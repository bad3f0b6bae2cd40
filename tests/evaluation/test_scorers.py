"""The Inception network of FID sees pictures as pytorch-fid shows them."""

from __future__ import annotations

import torch

from cap2im.evaluation.scorers import InceptionExtractor, to_uint8
from tests.inception import write_inception


def test_features_and_logits_are_those_of_pytorch_fid(tmp_path):
    extractor = InceptionExtractor.load(str(write_inception(tmp_path / "inception.pth")), torch.device("cpu"))
    network = extractor.network
    assert len(network.state_dict()) == 566, "as many entries as the published file has"
    pictures = torch.randint(256, (2, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, logits = extractor.extract(pictures)
    enlarged = torch.nn.functional.interpolate(pictures / 255, size=(299, 299), mode="bilinear", align_corners=False)
    expected = network(2 * enlarged - 1)
    torch.testing.assert_close(features, expected.pooled, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(logits, expected.logits - network.fc.bias, rtol=1e-3, atol=1e-4)
    assert network.fc.bias.abs().max() > 0.1, "or leaving it out would change nothing"
    assert not torch.allclose(features[0], features[1])
    grey, _ = extractor.extract(pictures[:, :1])
    torch.testing.assert_close(grey, extractor.extract(pictures[:, :1].expand(-1, 3, -1, -1))[0], rtol=1e-3, atol=1e-4)
    assert to_uint8(torch.tensor([0, 0.5 / 255 - 1e-6, 0.5 / 255 + 1e-6, 1])).tolist() == [0, 0, 1, 255]
