"""A code as an image over a face: known weights, the way back, and faces that cannot hold it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from latticegnn.lattice import LatticeSpec, Ports, Random
from latticegnn.nn.image import PortImage, interpolation, port_maps


def spec(*shape: int, **settings) -> LatticeSpec:
    return LatticeSpec(shape, radii=(0.5, 1.0, 1.5), **settings)


def test_weights_of_a_small_face_are_the_known_ones() -> None:
    weights = interpolation(spec(3, 2, 4), Ports("z-"), (2, 2))
    half = [[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(weights, torch.tensor(half, dtype=torch.float64))


@pytest.mark.parametrize("face", ["x-", "x+", "y-", "y+", "z-", "z+"])
def test_a_face_of_the_images_own_shape_takes_it_as_it_is(face) -> None:
    lattice = spec(3, 4, 5)
    sides = tuple(n for n, axis in zip(lattice.shape, "xyz", strict=True) if axis != face[0])
    weights = interpolation(lattice, Ports(face), sides)
    eye = torch.eye(len(weights), dtype=torch.float64)
    assert torch.equal(weights, eye)
    assert torch.equal(PortImage(weights).inverse().matrix, eye)


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(1, 4), st.integers(1, 4)), st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_it_is_torchs_interpolation_and_comes_back(shape, more) -> None:
    # A side of one cell or one number has no direction to interpolate along.
    sides = tuple(k + (extra if k > 1 else 0) for k, extra in zip(shape, more, strict=True))
    laid = PortImage(interpolation(spec(*sides, 2), Ports("z+"), shape))
    image = torch.randn(3, shape[0] * shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = functional.interpolate(image.view(3, 1, *shape), size=sides, mode="bilinear", align_corners=True)
    torch.testing.assert_close(laid(image), expected.flatten(1), rtol=0, atol=1e-12)
    back = laid.inverse()
    torch.testing.assert_close(back(laid(image)), image, rtol=0, atol=1e-10)
    for matrix in (laid.matrix, back.matrix):
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix), dtype=torch.float64), rtol=0, atol=1e-10)


def test_every_channel_is_mapped_alike() -> None:
    laid = PortImage(interpolation(spec(5, 6, 2), Ports("z-"), (2, 3)))
    states = torch.randn(4, 6, 3, dtype=torch.float64)
    torch.testing.assert_close(laid(states), torch.stack([laid(states[..., c]) for c in range(3)], dim=-1))


def test_ports_may_be_few_and_cells_in_any_order() -> None:
    few = Ports("z-", Random(count=20), seed=1)
    weights = interpolation(spec(6, 6, 3), few, (2, 3))
    assert weights.shape == (20, 6)
    assert torch.equal(interpolation(spec(6, 6, 3, order="morton"), few, (2, 3)), weights)


def test_direct_hands_through() -> None:
    lay, read, code, places = port_maps("direct", None, spec(3, 4, 5), Ports("z-"), Ports("x+", "corners"))
    x = torch.randn(2, 12)
    assert lay(x) is x
    assert lay.inverse()(x) is x
    assert read(x) is x
    assert (code, places) == (12, 4)


def test_refusals(refuses) -> None:
    lattice, face = spec(3, 4, 5), Ports("z-")
    with refuses("must be one of direct, bilinear", "'bicubic'", "choose one of them"):
        port_maps("bicubic", None, lattice, face, face)
    with refuses("belongs to port_map: bilinear", "[2, 2] with direct", "leave it out"):
        port_maps("direct", (2, 2), lattice, face, face)
    for wrong in (None, (2,), (2, 0), (2, 2.5), (2, True), 4):
        with refuses("two whole numbers from 1", f"got {wrong!r}", "code_shape: [8, 8]"):
            port_maps("bilinear", wrong, lattice, face, face)
    with refuses("on one face", "the whole surface", "such as z-"):
        interpolation(lattice, Ports("surface"), (2, 2))
    with refuses("hold the whole code", "12 ports on z- of 3 × 4 cells tell 12 of the 16", "smaller code_shape"):
        interpolation(lattice, face, (4, 4))
    with refuses("hold the whole code", "4 ports on z- of 3 × 4 cells tell 4 of the 6", "take more ports"):
        interpolation(lattice, Ports("z-", "corners"), (2, 3))
