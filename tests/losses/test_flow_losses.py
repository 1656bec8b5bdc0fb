"""The distillation's three terms in closed form, in float64."""

import numpy as np
import pytest
import torch

from ctsr_lightning.diffusion.flow import GaussianFlow, expand, integrate, perturb, step_velocity
from ctsr_lightning.losses import flow

SOLVERS = ("euler", "midpoint", "heun", "ralston")


def latents(count, seed=0):
    return torch.randn(count, 1, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def times(*values):
    return torch.tensor(values, dtype=torch.float64)


def terms(teacher, student, x_0, t, s, solver):
    """The three terms of a teacher v(x, τ) and a student v(τ), and the teacher's step."""
    v_t, v_s = student(t), student(s)
    x_t = x_0 + expand(t, x_0) * v_t
    at_t, step = teacher(x_t, t), step_velocity(teacher, x_t, t, s - t, solver)
    return (
        flow.distillation(v_s, v_t, step, t, s).item(),
        flow.alignment(v_t, at_t, t).item(),
        flow.boundary(student(torch.zeros_like(t)), teacher(x_0, torch.zeros_like(t))).item(),
    )


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_terms_are_those_of_the_paper(norm):
    v_s, v_t, teacher = (x[0].numpy() for x in latents(3))
    t, s = 0.3, 0.45
    power = {"l1": np.abs, "l2": np.square}[norm]
    args = [torch.from_numpy(x)[None] for x in (v_s, v_t, teacher)]
    residual = s * (v_s - v_t) - (s - t) * (teacher - v_t)  # Eq. 8
    found = flow.distillation(*args, times(t), times(s), norm)
    assert found.item() == pytest.approx(power(residual / s).mean(), rel=1e-12)
    found = flow.alignment(args[1], args[2], times(t), norm)
    assert found.item() == pytest.approx(power((1 - t) * (v_t - teacher)).mean(), rel=1e-12)
    found = flow.boundary(args[1], args[2], norm)
    assert found.item() == pytest.approx(power(v_t - teacher).mean(), rel=1e-12)


def test_only_one_velocity_of_each_term_is_trained():
    v_s, v_t, teacher = (x.requires_grad_() for x in latents(3))
    t, s = times(0.3), times(0.4)
    trained = {
        flow.distillation(v_s, v_t, teacher, t, s): v_s,
        flow.alignment(v_t, teacher, t): v_t,
        flow.boundary(v_t, teacher): v_t,
    }
    for loss, one in trained.items():
        gradients = torch.autograd.grad(loss, [v_s, v_t, teacher], allow_unused=True)
        assert [g is not None and bool(g.any()) for g in gradients] == [x is one for x in (v_s, v_t, teacher)]


@pytest.mark.parametrize("solver", SOLVERS)
def test_residual_of_a_bent_path(solver):
    x_0, b = latents(2)
    t, s = times(0.35), times(0.5)
    distil, align, boundary = terms(lambda x, t: 2 * expand(t, x) * b, lambda t: expand(t, b) * b, x_0, t, s, solver)
    missing = 0.15**2 / 0.5 if solver == "euler" else 0.0
    square = b.square().mean().item()
    assert distil == pytest.approx(missing**2 * square, rel=1e-9, abs=1e-18)
    assert align == pytest.approx((0.65 * 0.35) ** 2 * square, rel=1e-9)
    assert boundary == 0.0


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_straight_path_has_no_residual(solver):
    x_0, u = latents(2)
    assert terms(lambda *_: u, lambda _: u, x_0, times(0.2), times(0.3), solver) == pytest.approx((0, 0, 0), abs=1e-24)


class Gaussian:
    """Teacher and perfect student of the solvable flow, for one start."""

    def __init__(self, sigma=0.3, std=0.6):
        self.c, self.m, self.noise = latents(3, seed=1)
        self.flow, self.x_0 = GaussianFlow(sigma, std), perturb(self.c, self.noise, sigma)

    def teacher(self, x, t):
        return self.flow.velocity(x, t, self.c, self.m)

    def student(self, t):
        return self.flow.mean_velocity(self.x_0, t, self.c, self.m)


# With k = Σ'/2Σ and Σ a parabola, k'' = -6 k k' - 4 k³, and the midpoint rule's k''/24 + k k'/4 + k³/6 vanishes.
@pytest.mark.parametrize(("solver", "slope"), [("euler", 2), ("heun", 3), ("ralston", 3), ("midpoint", 4)])
def test_residual_of_the_solution_falls_with_the_step(solver, slope):
    one, t = Gaussian(), times(0.4)
    lengths = (0.02, 0.01)
    residuals = [terms(one.teacher, one.student, one.x_0, t, t + h, solver)[0] ** 0.5 for h in lengths]
    assert np.log2(residuals[0] / residuals[1]) == pytest.approx(slope, abs=0.15)


@pytest.mark.parametrize("solver", SOLVERS)
def test_solver_s_own_chain_has_no_residual(solver):
    one, h = Gaussian(), times(0.1)
    t, x = times(0.07), one.x_0 + 0.07 * one.student(times(0.07))
    for _ in range(9):
        s = t + h
        after = x + 0.1 * step_velocity(one.teacher, x, t, h, solver)
        chain = {t.item(): (x - one.x_0) / t, s.item(): (after - one.x_0) / s}
        distil = terms(one.teacher, lambda t, chain=chain: chain.get(t.item(), one.noise), one.x_0, t, s, solver)[0]
        assert distil == pytest.approx(0.0, abs=1e-24)
        t, x = s, after


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_alignment_does_not_vanish_at_the_solution(t):
    sigma, std = 0.3, 0.6
    one = Gaussian(sigma, std)
    spread = np.hypot((1 - t) * sigma, t * std)
    p, q = (spread - sigma) / t, (t * std**2 - (1 - t) * sigma**2) / spread
    found = terms(one.teacher, one.student, one.x_0, times(t), times(t + 0.05), "midpoint")
    assert found[1] == pytest.approx((1 - t) ** 2 * (p - q) ** 2 * one.noise.square().mean().item(), rel=1e-9)
    assert found[2] == pytest.approx(0.0, abs=1e-24)


@pytest.mark.parametrize("solver", ["euler", "midpoint"])
def test_a_table_of_velocities_learns_the_solver_s_chain(solver):
    one, count = Gaussian(), 10
    table = torch.zeros(count + 1, *one.x_0.shape[1:], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([table], lr=0.5 * table.numel())
    t = torch.arange(count, dtype=torch.float64) / count
    x_0 = one.x_0.expand(count, -1, -1, -1)
    for _ in range(120):
        v_t, v_s = table[:-1], table[1:]
        x_t = (x_0 + expand(t, x_0) * v_t).detach()
        step = step_velocity(one.teacher, x_t, t, torch.full_like(t, 1 / count), solver)
        start = one.teacher(one.x_0, times(0.0))
        loss = flow.distillation(v_s, v_t, step, t, t + 1 / count) + flow.boundary(table[:1], start) / count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    expected = integrate(one.teacher, one.x_0, count, solver)
    torch.testing.assert_close(one.x_0 + table[-1:].detach(), expected, rtol=0, atol=1e-9)
