import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F

from tokcodec.config.parts import ModelShape
from tokcodec.config.quantizers import BinaryConfig, CodebookConfig, FiniteScalarConfig
from tokcodec.model.binary import Binary
from tokcodec.model.codebook import _SPLIT_ROUNDOFF, Codebook, _split, nearest
from tokcodec.model.finite_scalar import FiniteScalar


def brute_force(z, codebook):
    z, codebook = z.double(), codebook.double()
    return torch.cat(
        [(part[:, None] - codebook).square().sum(dim=-1).argmin(dim=1) for part in z.split(16)]
    )


# Of a size that is a multiple of the blocks that scores are looked at in, a little, and not at all.
@pytest.mark.parametrize("size", [1024, 1000, 1021])
def test_exact_on_20000_vectors_with_ties_and_near_ties(size):
    generator = torch.Generator().manual_seed(0)
    codebook = torch.randn(1024, 8, generator=generator)
    z = torch.randn(20_000, 8, generator=generator)
    # Ties: equal vectors in several places, the lowest index wins.
    codebook[[850, 300, 900]] = codebook[5].clone()
    z[:100] = codebook[5] + 0.01 * torch.randn(100, 8, generator=generator)
    # Ties: as far from one as from the other, to the last bit.
    codebook[20], codebook[10] = torch.full((8,), 8.0), torch.full((8,), -8.0)
    z[100] = 0
    codebook[30] = torch.tensor([9.0, 0, 0, 0, 0, 0, 0, 0])
    codebook[31] = torch.tensor([0, 9.0, 0, 0, 0, 0, 0, 0])
    z[101] = 4.5 * torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])
    # Near-ties: pairs of vectors that differ in their last bits, far beyond float32's reach in
    # a squared distance, and midpoints between random vectors.
    steps = torch.randint(1, 4, (200, 8), generator=generator) * 2.0**-22
    codebook[400:600] = codebook[600:800] + steps * codebook[600:800].abs()
    z[200:400] = codebook[600:800] + 2
    z[400:2000] = (codebook[:400].repeat(4, 1) + codebook[400:800].repeat(4, 1)) / 2
    codebook = codebook[:size]
    tokens = nearest(z, codebook)
    assert torch.equal(tokens, brute_force(z, codebook))
    assert (tokens[:100] == 5).sum() > 90
    # The planted cases bite: float32 alone gets some of them wrong.
    scores = codebook.square().sum(dim=1) / 2 - z @ codebook.T
    assert (scores.argmin(dim=1) != tokens).sum() > 50


OLD = {
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "cudnn.allow_tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
}
NEW = {
    f"{name} {precision}": lambda backend=backend, precision=precision: setattr(
        backend, "fp32_precision", precision
    )
    for name, backend, precisions in (
        ("all", torch.backends, ("ieee", "tf32", "bf16", "none")),
        ("cuda.matmul", torch.backends.cuda.matmul, ("ieee", "tf32", "none")),
        ("mkldnn", torch.backends.mkldnn, ("ieee", "tf32", "bf16", "none")),
        ("mkldnn.matmul", torch.backends.mkldnn.matmul, ("ieee", "tf32", "bf16", "none")),
    )
    for precision in precisions
}


def settings():
    """All that a caller may have set, in either of torch's ways, which it refuses to mix."""
    backends = (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    found = [backend.fp32_precision for backend in backends]
    for read in (torch.get_float32_matmul_precision, lambda: torch.backends.cuda.matmul.allow_tf32):
        try:
            found.append(read())
        except RuntimeError as mixed:
            found.append(str(mixed))
    return found


def reset():
    torch.set_float32_matmul_precision("highest")
    for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends):
        backend.fp32_precision = "none"


@pytest.fixture
def _as_before():
    reset()
    yield
    reset()


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("metric", ["euclidean", "dot"])
@pytest.mark.parametrize("name", [*OLD, *NEW])
def test_nothing_the_caller_sets_makes_it_less_exact(name, metric):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(500, 16, generator=generator)
    vectors = torch.cat([z.flip(0) + 1e-5, z.flip(0), torch.randn(24, 16, generator=generator)])
    quantizer = codebook(1024, 16, metric)
    quantizer.codebook.copy_(vectors)
    products = z.double() @ vectors.double().T
    expected = brute_force(z, vectors) if metric == "euclidean" else products.argmax(dim=1)

    def then_inherited():
        """What operations have when all that they may inherit from has been set."""
        torch.backends.fp32_precision = "ieee"
        return settings()

    (OLD | NEW)[name]()
    without = then_inherited()
    reset()
    (OLD | NEW)[name]()
    before = settings()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.tokens(z), expected)
        with ThreadPoolExecutor(4) as pool:
            assert all(torch.equal(c, expected) for c in pool.map(quantizer.tokens, [z] * 8))
    assert settings() == before
    assert then_inherited() == without


def test_split_products_are_as_near_as_stated():
    # Also with factors rounded to bfloat16, which is what some processors do where they may.
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(300, 16, generator=generator) * 10**e for e in (3, -2))
    a, b = _split(x, "hlh"), _split(y, "hhl")
    assert torch.equal(a, a.bfloat16().float())
    assert torch.equal(b, b.bfloat16().float())
    sizes = x.norm(dim=1)[:, None].double() * y.norm(dim=1).double()
    error = ((a.double() @ b.double().T - x.double() @ y.double().T) / sizes).abs().max()
    assert 0 < error < _SPLIT_ROUNDOFF


def codebook(size, dim, metric):
    config = CodebookConfig(codebook_size=size, embedding_dim=dim, metric=metric)
    return Codebook(config, ModelShape(0, (), dim))


def test_dot_product():
    quantizer = codebook(200, 6, "dot")
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(200, 6, generator=generator)
    vectors[150:] = vectors[:50]  # ties: the lowest index wins
    quantizer.codebook.copy_(vectors)
    z = torch.randn(4, 5, 6, generator=generator)
    products = z.double() @ vectors.double().T
    assert torch.equal(quantizer.tokens(z), products[..., :150].argmax(dim=-1))
    best = products.topk(2).values
    torch.testing.assert_close(quantizer.margins(z), best[..., 0] - best[..., 1])
    assert torch.equal(quantizer.lookup(torch.tensor([[7]])), vectors[None, None, 7])


@pytest.mark.parametrize("first", ["lowest", "highest"])
def test_binary_tokens(first):
    quantizer = Binary(BinaryConfig(embedding_dim=3, first_bit=first), ModelShape(0, (), 3))
    z = torch.tensor([[0.5, -1.0, 2.0], [-0.25, 0.0, 3.0]])
    expected = [0b101, 0b100] if first == "lowest" else [0b101, 0b001]
    assert quantizer.tokens(z).tolist() == expected
    assert quantizer.margins(z).tolist() == [0.5, 0.0]
    everything = torch.arange(8)
    assert torch.equal(quantizer.tokens(quantizer.lookup(everything)), everything)
    with pytest.raises(ValueError, match="NaN or infinite"):
        quantizer.tokens(z / 0)


def test_finite_scalar_tokens():
    quantizer = FiniteScalar(FiniteScalarConfig(levels=(8, 5, 4)), ModelShape(0, (), 3))
    everything = torch.arange(160)
    z_q = quantizer.lookup(everything)
    assert z_q.abs().max() == 1
    assert len(z_q.unique(dim=0)) == 160
    assert z_q[9].tolist() == [(1 - 4) / 4, (1 - 2) / 2, (0 - 2) / 2]  # digits 1, 1, 0
    z = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0)) * 2
    tokens = quantizer.tokens(z)
    assert set(tokens.tolist()) == set(range(160))
    # Where the margin is small, a small step changes the token; elsewhere it does not.
    moved = (quantizer.tokens(z + 1e-4) != tokens) | (quantizer.tokens(z - 1e-4) != tokens)
    near = quantizer.margins(z) < 1e-3
    assert moved.any()
    assert near[moved].all()
    assert (quantizer.tokens(z + torch.tensor([100.0, 0, 0])) % 8 == 7).all()
    assert (quantizer.tokens(z - torch.tensor([100.0, 0, 0])) % 8 == 0).all()


def test_cosine_distance():
    quantizer = codebook(64, 6, "cosine")
    generator = torch.Generator().manual_seed(2)
    quantizer.codebook.copy_(torch.randn(64, 6, generator=generator) * 10)
    z = torch.randn(3, 50, 6, generator=generator)
    tokens = quantizer.tokens(z)
    assert tokens.shape == (3, 50)
    cosine = F.cosine_similarity(z.double()[..., None, :], quantizer.codebook.double(), dim=-1)
    assert torch.equal(tokens, cosine.argmax(dim=-1))
    assert torch.allclose(quantizer.lookup(tokens).norm(dim=-1), torch.ones(3, 50))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_values_without_a_nearest_are_refused(value):
    z = torch.zeros(5, 4)
    z[3, 1] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        nearest(z, torch.eye(4) * 1e10)


# Peak memory above the inputs, in a process of its own; also where every vector ties.
@pytest.mark.parametrize(("rows", "equal"), [(4_000, False), (64, True)])
def test_memory_stays_below_200_mb(rows, equal):
    program = f"""
import resource, torch
from tokcodec.model.codebook import nearest
z, codebook = torch.randn({rows}, 16), torch.randn(65_536, 16)
if {equal}:
    codebook[:] = 1
nearest(z[:8], codebook[:8])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tokens = nearest(z, codebook)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, int(tokens.max()))
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    kilobytes, largest = map(int, printed.stdout.split())
    assert kilobytes < 200_000
    assert (largest == 0) == equal
