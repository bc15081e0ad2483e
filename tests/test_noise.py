"""Noise is a pure function of (seed, stream, step, index): known answers, moments, and what must not change it."""

import hashlib
import math

import pytest
import torch

from stepsmith.errors import InputError
from stepsmith.runtime import NoiseSource, parse_seeds
from stepsmith.runtime.noise import philox, seeds_text

torch.set_num_threads(1)
ONES = 0xFFFFFFFF


def words(*values):
    return [torch.tensor(value, dtype=torch.int64) for value in values]


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, answer):
    assert tuple(int(word) for word in philox(words(*counter), words(*key))) == answer


def plain(c, k):
    """Philox4x32-10 on Python integers."""
    for _ in range(10):
        p, q = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = ((q >> 32) ^ c[1] ^ k[0], q & ONES, (p >> 32) ^ c[3] ^ k[1], p & ONES)
        k = ((k[0] + 0x9E3779B9) & ONES, (k[1] + 0xBB67AE85) & ONES)
    return c


def test_philox_equals_a_plain_integer_implementation():
    drawn = torch.randint(0, 2**32, (200, 6), generator=torch.Generator().manual_seed(0))
    found = torch.stack(philox(drawn[:, :4].unbind(1), drawn[:, 4:].unbind(1)), dim=1)
    for row, out in zip(drawn.tolist(), found.tolist(), strict=True):
        assert tuple(out) == plain(tuple(row[:4]), tuple(row[4:]))


def test_the_noise_is_what_the_module_says_it_is():
    seed, stream, step, index = 5 + 3 * 2**32, "step", 7, 2
    found = NoiseSource([seed]).normal((6,), stream, step, index, dtype=torch.float64)[0].tolist()
    name = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:4], "little")
    want = []
    for block in (0, 1):
        w = plain((block, index, step, name), (5, 3))
        for u, v in (w[:2], w[2:]):
            radius = math.sqrt(-2 * math.log((u + 0.5) / 2**32))
            want += [radius * math.cos(2 * math.pi * v / 2**32), radius * math.sin(2 * math.pi * v / 2**32)]
    assert max(abs(a - b) for a, b in zip(found, want[:6], strict=True)) < 1e-14


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 7, 7), (1, 8, 8)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_sample_has_the_same_noise_bit_for_bit_in_every_batch(shape, dtype):
    full = NoiseSource(range(40)).normal(shape, "step", 3, 1, dtype=dtype)
    assert full.shape == (40, *shape) and full.dtype == dtype
    for batch in (1, 2, 3, 16, 17):
        for first in (0, 1, 5, 23):
            part = NoiseSource(range(first, first + batch)).normal(shape, "step", 3, 1, dtype=dtype)
            assert torch.equal(part, full[first : first + batch])
    order = [7, 3, 39, 0, 3]
    assert torch.equal(NoiseSource(order).normal(shape, "step", 3, 1, dtype=dtype), full[order])


def test_asking_in_another_order_or_again_changes_nothing():
    source = NoiseSource("0-3")
    late = source.normal((4,), "step", 9, 0)
    source.normal((4,), "start", 0, 0)
    assert torch.equal(source.normal((4,), "step", 9, 0), late)
    assert torch.equal(source.normal((3,), "step", 9, 0), late[:, :3])


def test_seed_stream_step_and_index_each_give_other_noise():
    def draw(seed=5, stream="step", step=2, index=1):
        return NoiseSource([seed]).normal((1000,), stream, step, index, dtype=torch.float64)[0]

    base = draw()
    others = [
        draw(seed=6),
        draw(seed=5 + 2**32),
        draw(stream="start"),
        draw(step=3),
        draw(index=0),
        draw(step=1, index=2),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([base, other]))[0, 1]) < 0.15
        assert (base == other).sum() == 0


def test_noise_is_standard_normal_and_uncorrelated():
    noise = NoiseSource(range(1000)).normal((1000,), "step", dtype=torch.float64)
    flat = noise.flatten()
    count = flat.numel()
    assert abs(flat.mean()) < 5 / count**0.5
    assert abs(flat.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((flat**3).mean()) < 5 * (15 / count) ** 0.5
    assert abs((flat**4).mean() - 3) < 5 * (96 / count) ** 0.5
    for shift in (1, 2, 4):  # neighbours within a Philox block and across blocks
        assert abs((noise[:, shift:] * noise[:, :-shift]).mean()) < 5 / count**0.5
    assert abs((noise[1:] * noise[:-1]).mean()) < 5 / count**0.5  # neighbouring seeds
    inside = torch.tensor([(flat.abs() < z).double().mean() for z in (0.5, 1.0, 2.0, 3.0)])
    exact = torch.erf(torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) / 2**0.5)
    assert ((inside - exact).abs() < 5 * (exact * (1 - exact) / count).sqrt()).all()
    assert torch.isfinite(flat).all() and flat.abs().max() < 6.77


def test_seeds_are_read_from_text_ranges_and_numbers():
    assert parse_seeds("0-3") == (0, 1, 2, 3)
    assert parse_seeds("0,3, 7-9") == (0, 3, 7, 8, 9)
    assert parse_seeds("5") == parse_seeds(5) == (5,)
    assert parse_seeds(range(2, 5)) == parse_seeds(torch.tensor([2, 3, 4])) == (2, 3, 4)
    assert parse_seeds([2**63 - 1]) == (2**63 - 1,)


def test_seeds_are_written_as_ranges_that_are_read_back_in_their_order():
    assert seeds_text(range(50_000)) == "0-49999"
    assert seeds_text([0, 1, 2, 3, 7]) == "0-3,7"
    assert seeds_text([3, 2, 1, 1, 2, 9]) == "3,2,1,1-2,9"
    assert seeds_text([2**63 - 2, 2**63 - 1]) == "9223372036854775806-9223372036854775807"
    for seeds in ([5], [3, 2, 1], [7, 7, 8], [2**63 - 1, 0, 1], [*range(100, 300), 0]):
        assert list(parse_seeds(seeds_text(seeds))) == seeds


def test_a_run_of_seeds_longer_than_a_range_may_be_is_written_as_several(monkeypatch):
    monkeypatch.setattr("stepsmith.runtime.noise._MOST_SEEDS", 10)
    assert seeds_text(range(25)) == "0-9,10-19,20-24"
    assert parse_seeds(seeds_text(range(25))) == tuple(range(25))


@pytest.mark.parametrize(
    "seeds",
    [
        "",
        "a",
        "3-1",
        "1-",
        "-4",
        "1,,2",
        "0-99999999",
        "9223372036854775808",
        [],
        [-1],
        [1.5],
        [True],
        ["1"],
        None,
        2**63,
    ],
)
def test_bad_seeds_are_refused(seeds):
    with pytest.raises(InputError) as caught:
        NoiseSource(seeds)
    assert caught.value.key == "seeds"


def test_a_step_beyond_the_counter_is_refused():
    with pytest.raises(ValueError, match="must lie"):
        NoiseSource([0]).normal((1,), "step", 2**32)


def test_a_block_of_draws_is_bit_for_bit_the_draws_one_by_one():
    source = NoiseSource(range(5))
    for shape in ((), (3, 7), (1, 8, 8)):
        block = source.block(shape, "step", 4, 6, 3, index=1)
        assert block.shape == (6, 3, 5, *shape)
        for k in range(6):
            for i in range(3):
                assert torch.equal(block[k, i], source.normal(shape, "step", 4 + k, 1 + i))
