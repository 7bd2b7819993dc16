"""Promise: coordinates are what their papers say, stay orthonormal and float32 wherever they are moved, and
name their parts; a wrong part is answered with the right ones."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from workers.errors import StudyError
from workers.intervene.features import PCA, SparseAutoencoder
from workers.intervene.masks import BoundlessRotation, Mask
from workers.intervene.operations import exchange
from workers.intervene.subspaces import LowRankRotation, Rotation, Subspace, as_ranges

W = 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def is_orthonormal(weight: Tensor) -> bool:
    return torch.allclose(weight.mT @ weight, torch.eye(weight.shape[1]), atol=1e-5)


@pytest.mark.parametrize("make", [Rotation, BoundlessRotation, lambda w, **k: LowRankRotation(w, 3, **k)])
def test_rotations_stay_orthonormal_and_float32_while_trained_and_moved(make: Any) -> None:
    rotation = make(W, seed=1)
    optimizer = torch.optim.Adam(rotation.parameters(), lr=0.5)
    for step in range(5):
        optimizer.zero_grad()
        exchange(rotation, "vanilla", normal(4, W), normal(4, W, seed=step)).sum().backward()
        optimizer.step()
    before = rotation.weight.detach().clone()
    moved = torch.nn.ModuleList([rotation]).to(torch.bfloat16).half().double()[0]
    assert moved.weight.dtype == torch.float32
    assert torch.equal(moved.weight, before)
    assert is_orthonormal(before)


def test_a_seed_gives_one_rotation_and_leaves_other_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other, third = (LowRankRotation(W, 3, seed=seed).weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(one, other)
    assert not torch.allclose(one, third)


def test_values_keep_the_models_dtype() -> None:
    old, other = normal(4, W).bfloat16(), normal(4, W, seed=1).bfloat16()
    new = exchange(Rotation(W), "vanilla", old, other)
    assert new.dtype == torch.bfloat16
    torch.testing.assert_close(new, other, atol=1e-2, rtol=1e-2)
    assert torch.equal(exchange(Rotation(W), "vanilla", old, old), old)


@given(st.sets(st.integers(0, W - 1), min_size=1))
def test_a_part_changes_its_coordinates_only(chosen: set[int]) -> None:
    rotation = Rotation(W, seed=3)
    old, other = normal(4, W), normal(4, W, seed=1)
    new = exchange(rotation[sorted(chosen)], "vanilla", old, other)
    before, given_, after = (rotation.coordinates(value) for value in (old, other, new))
    for k in range(W):
        torch.testing.assert_close(
            after[:, k], (given_ if k in chosen else before)[:, k], atol=1e-5, rtol=1e-4
        )


def test_a_boundless_mask_is_the_papers_and_learns_its_boundary() -> None:
    boundless = BoundlessRotation(W, boundary=0.25, temperature=0.1)
    k = torch.arange(W)
    expected = torch.sigmoid((k - 0) / 0.1) * torch.sigmoid((3.0 - k) / 0.1)
    torch.testing.assert_close(boundless.gates(), expected)
    boundless.temperature = 2.0
    boundless.gates().sum().backward()
    assert boundless.boundary.grad > 0
    assert "temperature" not in dict(boundless.named_parameters()) | dict(boundless.named_buffers())


def test_a_cold_mask_swaps_what_it_is_open_for() -> None:
    mask = Mask(W, temperature=0.01)
    with torch.no_grad():
        mask.mask.copy_(torch.where(torch.arange(W) < 4, 1.0, -1.0))
    old, other = normal(4, W), normal(4, W, seed=1)
    torch.testing.assert_close(
        exchange(mask, "vanilla", old, other), torch.cat([other[:, :4], old[:, 4:]], 1), atol=1e-5, rtol=1e-5
    )


def test_principal_components_are_those_of_the_covariance() -> None:
    rows = normal(200, W) * torch.arange(1, W + 1)
    pca = PCA.fit(rows.reshape(20, 10, W), 3)
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    for column in range(3):
        assert abs(float(pca.components[:, column] @ vectors[:, -1 - column])) == pytest.approx(1, abs=1e-3)
    assert pca.coordinates(rows).var(0).tolist() == pytest.approx(values.flip(0)[:3].tolist(), rel=1e-3)
    assert (pca.components.gather(0, pca.components.abs().argmax(0, keepdim=True)) > 0).all()


def test_an_autoencoder_keeps_the_bases_error() -> None:
    encoder, decoder = normal(W, 20), normal(20, W, seed=1)
    threshold = torch.full((20,), 0.5)
    sae = SparseAutoencoder(
        encoder, decoder, normal(20, seed=2), normal(W, seed=3), threshold=threshold, centered=True
    )
    x = normal(4, W, seed=4)
    before = (x - sae.decoder_bias) @ encoder + sae.encoder_bias
    features = torch.where(before > 0.5, before, 0.0)
    torch.testing.assert_close(sae.coordinates(x), features)
    error = x - (features @ decoder + sae.decoder_bias)
    features[:, 7] = 10.0
    new = exchange(sae[7], lambda old, other: torch.full_like(old, 10.0), x, x)
    torch.testing.assert_close(new, features @ decoder + sae.decoder_bias + error, atol=1e-4, rtol=1e-4)


def test_parts_are_named_and_a_wrong_one_is_answered_with_the_right_ones() -> None:
    rotation = Rotation(W, parts={"colour": "0:4", "shape": ["4:6", 8]})
    assert rotation["shape"].ranges == ((4, 6), (8, 9))
    assert rotation["colour"] == rotation[0:4] == rotation["0:4"]
    assert rotation[["colour", 5]].ranges == ((0, 4), (5, 6))
    with pytest.raises(StudyError, match="no part 'color'; parts are colour, shape; did you mean 'colour'"):
        rotation["color"]
    for wrong in (W, "5:3", slice(0, 20)):
        with pytest.raises(StudyError, match="are not there; there are 12"):
            rotation[wrong]


@pytest.mark.parametrize("wrong", ["x", 2.5, "3:", slice(0, 8, 2), True])
def test_what_names_no_dimensions_is_refused(wrong: Any) -> None:
    with pytest.raises(StudyError, match=r"names no dimensions; write 3, '0:16'"):
        as_ranges(wrong, None)
    with pytest.raises(StudyError, match="empty list"):
        as_ranges([], None)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LowRankRotation(4, 5),
        lambda: Rotation(0),
        lambda: Mask(4, temperature=0.0),
        lambda: BoundlessRotation(4, boundary=2.0),
        lambda: PCA.fit(normal(2, 4), 3),
        lambda: SparseAutoencoder(normal(4, 8), normal(4, 8)),
        lambda: SparseAutoencoder(normal(4, 8), normal(8, 4), k=0),
        lambda: SparseAutoencoder(normal(4, 8), normal(8, 4), k=9),
        lambda: SparseAutoencoder(normal(4, 8), normal(8, 4), k=2, threshold=normal(8)),
        lambda: SparseAutoencoder(normal(4, 8), normal(8, 4), log_magnitude=normal(8)),
        lambda: SparseAutoencoder(normal(4, 8), normal(8, 4), normalization="rms"),
    ],
)
def test_what_cannot_be_made_is_refused(make: Any) -> None:
    with pytest.raises(StudyError):
        make()


def test_a_subspace_without_gates_swaps_all_of_each_coordinate() -> None:
    class First(Subspace):
        """A subspace of the caller's own."""

        def coordinates(self, values: Tensor) -> Tensor:
            return values[:, :1].float()

        def effect(self, change: Tensor) -> Tensor:
            return torch.nn.functional.pad(change, (0, self.width - 1))

        def config(self) -> dict[str, Any]:
            return {}

    old, other = normal(4, W), normal(4, W, seed=1)
    new = exchange(First(W, 1), "vanilla", old, other)
    torch.testing.assert_close(new, torch.cat([other[:, :1], old[:, 1:]], 1))
