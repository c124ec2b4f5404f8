"""Chapter 5: the fit of the law, its intervals and refusals, isoFLOP, forecasts, allocation."""
import csv
from pathlib import Path

import numpy as np
import pytest
import torch

import allocate
import isoflop
import predict
from chinchilla import (
    BESIROGLU,
    NAMES,
    Law,
    bootstrap,
    fit,
    huber,
    interval,
    log_law,
    objective,
    published_like_runs,
    read_runs,
    to_law,
)
from commands import command
from lbfgs import minimize, two_loop

ROOT = Path(__file__).resolve().parent.parent


def test_the_published_constants_come_back_within_their_intervals():
    inside = []
    for seed in range(6):
        runs = published_like_runs(seed)
        fitted = fit(*runs)
        assert fitted.determined and fitted.residual == pytest.approx(0.01, rel=0.15)
        laws = bootstrap(*runs, fitted, 200, seed)
        for name in NAMES:
            low, high = interval(np.array([getattr(law, name) for law in laws]))
            inside.append(low <= getattr(BESIROGLU, name) <= high)
    assert sum(inside) >= 23, f"{sum(inside)} of {len(inside)} constants inside their 90% intervals"


def test_without_noise_the_constants_come_back_exactly():
    N, D, loss = published_like_runs(0, noise=0.0)
    for E in (None, 1.82):
        law = fit(N, D, loss, E).law
        np.testing.assert_allclose([getattr(law, n) for n in NAMES],
                                   [getattr(BESIROGLU, n) for n in NAMES], rtol=1e-3)


def test_one_absurd_run_hardly_moves_the_fit():
    N, D, loss = published_like_runs(0, noise=0.0)
    loss[7] *= 3
    assert fit(N, D, loss).law.E == pytest.approx(1.82, abs=0.01)


def test_the_gradient_of_the_objective_is_torchs():
    rng = np.random.default_rng(0)
    n, d, y = rng.normal(size=(3, 9))
    for columns in (5, 4):
        theta = rng.normal(size=(3, columns))
        value, gradient = objective(n, d, y, 0.3)(theta, np.arange(3))
        t = torch.tensor(theta, requires_grad=True)
        a, alpha, b, beta = t[:, -4:].T[:, :, None]
        terms = [a - alpha * torch.tensor(n), b - beta * torch.tensor(d)]
        terms += [t[:, :1].expand_as(terms[0])] if columns == 5 else []
        f = torch.logsumexp(torch.stack(torch.broadcast_tensors(*terms)), 0)
        loss = torch.nn.functional.huber_loss(f, torch.tensor(y).expand_as(f), delta=0.3,
                                              reduction="none").sum(1)
        loss.sum().backward()
        torch.testing.assert_close(torch.tensor(value), loss.detach())
        torch.testing.assert_close(torch.tensor(gradient), t.grad)


@pytest.mark.parametrize("theta", [[0.0, 0.0, 0.5, 0.0, 0.5], [0.1, 0.1, 0.0, 0.1, 0.0],
                                   [0.2, -9.0, 0.3, -9.0, 0.3]])
@pytest.mark.parametrize("off", [0.0, 0.3, -0.3])
def test_where_pieces_meet_the_gradient_is_that_of_finite_differences(theta, off):
    """All terms of the law equal, no residual, and a residual of exactly Huber's delta."""
    n = d = np.zeros(2)
    theta = np.array([theta])
    y = log_law(theta, n, d)[0][0] - off
    function = objective(n, d, y, 0.3)
    steps = 1e-6 * np.eye(5)
    slopes = [(function(theta + s, np.arange(1))[0] - function(theta - s, np.arange(1))[0]) / 2e-6
              for s in steps]
    np.testing.assert_allclose(function(theta, np.arange(1))[1][0], np.concatenate(slopes), atol=2e-6)


def test_the_optimizer_finds_what_torchs_finds_and_treats_problems_apart():
    N, D, loss = published_like_runs(3)
    n, d, y = np.log(N), np.log(D), np.log(loss)
    function = objective(n - n.mean(), d - d.mean(), y, 1e-3)
    starts = np.array([[0.3, -1.0, 0.5, -1.0, 0.5], [0.5, -0.5, 0.2, -0.5, 0.9], [-0.2, 0.0, 0.3, -2.0, 0.2]])
    found, values = minimize(function, starts)
    reference = torch.tensor(starts[0], requires_grad=True)
    optimizer = torch.optim.LBFGS([reference], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-14,
                                  line_search_fn="strong_wolfe")

    def closure():
        value, gradient = function(reference.detach().numpy()[None], np.array([0]))
        reference.grad = torch.tensor(gradient[0])
        return torch.tensor(value[0])

    optimizer.step(closure)
    assert values.max() <= closure().item() * (1 + 1e-6)
    alone, _ = minimize(lambda x, rows: function(x, rows), starts[1:2])
    np.testing.assert_allclose(alone[0], found[1], rtol=1e-9)


def test_rosenbrocks_valley_is_followed_to_its_end():
    def rosenbrock(x, rows):
        a, b = x[:, 0], x[:, 1]
        slope = np.stack([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)], 1)
        return (1 - a) ** 2 + 100 * (b - a * a) ** 2, slope

    found, values = minimize(rosenbrock, np.array([[-1.2, 1.0], [3.0, -2.0], [0.0, 5.0]]))
    np.testing.assert_allclose(found, 1, atol=1e-4)
    assert values.max() < 1e-8


def test_two_loops_are_the_bfgs_matrix_written_out():
    rng = np.random.default_rng(0)
    s, M = rng.normal(size=(3, 4)), rng.normal(size=(4, 4))
    y = s @ (M @ M.T + np.eye(4))
    H = np.eye(4) * (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    for si, yi in zip(s, y):
        V = np.eye(4) - np.outer(si, yi) / (si @ yi)
        H = V @ H @ V.T + np.outer(si, si) / (si @ yi)
    g = rng.normal(size=4)
    np.testing.assert_allclose(two_loop(g[None], s[:, None], y[:, None])[0], -H @ g, rtol=1e-10)


@pytest.mark.parametrize("change, message", [
    (lambda r: [v[:4] for v in r], "4 different .* can't determine 5 parameters"),
    (lambda r: [np.full_like(r[0], 1e8), r[1], r[2]],
     "all runs have N = 1e\\+08, so A and alpha are not determined"),
    (lambda r: [r[0], np.full_like(r[1], 1e9), r[2]], "all runs have D"),
    (lambda r: [r[0], r[1], np.where(np.arange(20) == 3, 0, r[2])], "run 4 has loss = 0.0"),
    (lambda r: [r[0], r[1], np.where(np.arange(20) == 5, -1, r[2])], "run 6 has loss = -1.0"),
    (lambda r: [r[0], r[1], np.where(np.arange(20) == 2, np.nan, r[2])], "run 3 has loss = nan"),
    (lambda r: [np.where(np.arange(20) == 2, np.inf, r[0]), r[1], r[2]], "run 3 has N = inf"),
])
def test_runs_that_determine_nothing_are_refused_with_the_reason(change, message):
    with pytest.raises(ValueError, match=message):
        fit(*change(published_like_runs(0, n=20)))


def test_runs_whose_parameters_can_be_traded_are_reported_as_undetermined():
    rng = np.random.default_rng(0)
    N = np.exp(rng.uniform(np.log(1e8), np.log(1e10), 40))
    ray = fit(N, 20 * N, BESIROGLU.loss(N, 20 * N) * np.exp(rng.normal(0, 1e-3, 40)))        # D always 20 N
    assert not ray.determined and ray.condition > 1e5
    # two sizes: A, alpha or E?
    N, D = np.repeat([1e8, 1e9], 6), np.tile(np.geomspace(1e9, 1e11, 6), 2)
    assert not fit(N, D, BESIROGLU.loss(N, D)).determined
    assert fit(*published_like_runs(0)).condition < 1e3


def write_csv(path: Path, N, D, loss) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "loss", "D", "N"),
                                    *(("x", y, d, n) for n, d, y in zip(N, D, loss))])
    return path


def test_the_command_fits_any_csv_and_says_in_one_sentence_what_is_wrong_with_it(tmp_path):
    file = ROOT / "05_scaling" / "chinchilla.py"
    path = write_csv(tmp_path / "runs.csv", *published_like_runs(1))
    good = command(file, "--csv", path, "--bootstraps", 50)
    assert good.returncode == 0 and "245 runs" in good.stdout and "beta" in good.stdout
    assert "NOT" not in good.stdout
    N, D, loss = published_like_runs(1)
    loss[3] = np.nan
    bad = command(file, "--csv", write_csv(tmp_path / "bad.csv", N, D, loss))
    assert bad.returncode != 0 and "run 4 has loss = nan" in bad.stderr and "Traceback" not in bad.stderr
    (tmp_path / "no.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="needs a header line"):
        read_runs(str(tmp_path / "no.csv"))
    written = (tmp_path / "runs.csv").read_text()
    (tmp_path / "excel.csv").write_text(written.replace(",", " , "), encoding="utf-8-sig")
    assert all((a == b).all() for a, b in zip(read_runs(str(tmp_path / "excel.csv")), published_like_runs(1)))
    for damaged in (written.encode("utf-16"), b"N,D,loss\n" + b"1" * 200_000):
        (tmp_path / "damaged.csv").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged.csv can't be read .* in UTF-8"):
            read_runs(str(tmp_path / "damaged.csv"))
    N, D, loss = published_like_runs(1)
    with pytest.raises(ValueError, match="is not above the entropy 9"):
        fit(N, D, loss, E=9.0)
    with pytest.raises(ValueError, match="run 1 has loss = nan"):
        fit(N, D, loss * np.nan, E=1.0)
    with pytest.raises(ValueError, match=r"shapes \(245,\), \(9,\) and \(245,\)"):
        fit(N, D[:9], loss)
    with pytest.raises(ValueError, match="0 different"):
        fit([], [], [], E=1.0)
    (tmp_path / "text.csv").write_text("N,D,loss\n1,2\n")
    with pytest.raises(ValueError, match="not a number"):
        read_runs(str(tmp_path / "text.csv"))


def grid_of(law: Law, sizes: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, sizes), np.geomspace(1e8, 1e11, 7)))
    return N, D, law.loss(N, D)


def test_all_three_approaches_agree_on_runs_that_follow_a_law():
    law = Law(1.5, 300, 0.4, 600, 0.36)
    N, D, loss = grid_of(law)
    wanted = 0.36 / 0.76
    assert isoflop.isoflop(N, D, loss).exponent == pytest.approx(wanted, abs=0.03)
    assert isoflop.envelope(N, D, loss).exponent == pytest.approx(wanted, abs=0.05)
    found = fit(N, D, loss).law
    assert found.beta / (found.alpha + found.beta) == pytest.approx(wanted, abs=1e-3)


def test_a_slice_without_its_own_minimum_says_nothing():
    with pytest.raises(ValueError, match="no minimum"):
        isoflop.parabola_minimum(np.arange(5.0), np.arange(5.0) ** 2 + 10 * np.arange(5.0))
    with pytest.raises(ValueError, match="no minimum"):
        isoflop.parabola_minimum(np.arange(5.0), -np.arange(-2.0, 3.0) ** 2)
    with pytest.raises(ValueError, match="fewer than 3 token counts"):
        isoflop.curves(np.array([1.0, 1.0]), np.array([1.0, 2.0]), np.array([3.0, 2.0]))


def test_kaplans_form_comes_back_from_its_own_runs():
    # their published constants
    truth = isoflop.Kaplan(N_c=8.8e13, alpha_N=0.076, D_c=5.4e13, alpha_D=0.095)
    N, D, _ = grid_of(BESIROGLU)
    found = isoflop.fit_kaplan(N, D, truth.loss(N, D))
    assert found.alpha_N == pytest.approx(0.076, rel=1e-2) and found.alpha_D == pytest.approx(0.095, rel=1e-2)
    np.testing.assert_allclose(found.loss(1e10, 1e12), truth.loss(1e10, 1e12), rtol=1e-3)


def sweep_rows(law: Law, seed: int, noise: float = 0.02) -> list[dict]:
    """Rows as sweep.py writes them, from a law with run-to-run noise in the reducible loss."""
    from ngram import NgramModel
    rng, rows = np.random.default_rng(seed), []
    for width in (12, 16, 24, 32, 48, 64):
        size = NgramModel(3, 64, width, [0]).sizes()[0]
        for tokens in (50_000, 100_000, 200_000, 400_000):
            reducible = (law.loss(size, tokens) - law.E) * np.exp(rng.normal(0, noise))
            rows.append(dict(width=width, tokens=tokens, seed=seed, order=3, parameters=size, entropy=law.E,
                             reducible=reducible))
    return rows


def test_a_forecast_of_runs_that_follow_a_law_covers_the_truth_about_nine_times_of_ten():
    law, inside = Law(1.375, 60, 0.57, 290, 0.58), 0
    for seed in range(12):
        f, _ = predict.forecast(sweep_rows(law, seed), 94, 800_000, replicas=60)
        size = 93248
        noise = np.exp(np.random.default_rng(1000 + seed).normal(0, 0.02))
        truth = law.E + (law.loss(size, 800_000) - law.E) * noise
        inside += f.low <= truth <= f.high
        assert f.loss == pytest.approx(law.loss(size, 800_000), rel=0.02)
    assert 10 <= inside, f"{inside} of 12"


def test_a_forecast_is_on_disk_before_its_target_is_trained(tmp_path, monkeypatch):
    path, law = tmp_path / "forecast.json", Law(1.375, 60, 0.57, 290, 0.58)
    with pytest.raises(FileNotFoundError):
        predict.run_targets(tmp_path, path, 3, [(94, 800_000, [0])], 1)

    def training(job, cells, modules, folder, jobs, label):
        assert path.exists(), "the target was trained before the forecast was written"
        return [dict(width=94, tokens=799_744, seed=0, entropy=1.375, reducible=0.2, cpu_seconds=1.0)]

    monkeypatch.setattr(predict, "run_cells", training)
    monkeypatch.setattr(predict, "symbols_file", lambda folder: "")
    made = predict.write_forecasts(path, sweep_rows(law, 0), [(94, 800_000, [0])])
    compared = predict.run_targets(tmp_path, path, 3, [(94, 800_000, [0])], 1)[0]
    assert compared["loss"] == made[0].loss and compared["measured"] == pytest.approx(1.575)
    assert compared["error"] == pytest.approx(made[0].loss / 1.575 - 1)
    assert "window" in path.read_text() and "form" in path.read_text()


def test_the_closed_form_optimum_is_the_one_found_by_looking():
    for law in (BESIROGLU, Law(0, 3, 0.2, 50, 0.7)):
        for compute in (1e15, 1e21, 1e25):
            np.testing.assert_allclose(allocate.optimal(law, compute),
                                       allocate.optimal_numeric(law, compute), rtol=1e-3)


def test_chinchilla_was_trained_close_to_the_optimum_and_gpt3_on_too_little_data():
    rows = {r["name"]: r for r in allocate.published_table()}
    assert rows["Chinchilla"]["best_ratio"] == pytest.approx(20, abs=3)
    assert rows["Chinchilla"]["excess"] < 0.001
    assert rows["GPT-3"]["best_N"] < rows["GPT-3"]["N"] / 3
    assert rows["DeepSeek-V3"]["best_N"] > 3 * rows["DeepSeek-V3"]["N"]
    assert all(r["excess"] >= 0 for r in rows.values())


def test_a_smaller_model_costs_more_to_train_and_pays_when_it_serves():
    multiple, ratio = allocate.overtraining(BESIROGLU, 1e22, 2.0)
    N, D = allocate.optimal(BESIROGLU, 1e22)
    assert multiple > 1 and ratio > 2 * D / N
    loss = float(BESIROGLU.loss(N, D))
    free = allocate.lifetime_optimal(BESIROGLU, loss, 0.0)
    assert free[0] == pytest.approx(N, rel=0.01) and free[2] == pytest.approx(1e22, rel=1e-3)
    served = allocate.lifetime_optimal(BESIROGLU, loss, 1e13)
    assert served[0] < N and served[2] < 1e22 + 2 * N * 1e13
    assert BESIROGLU.loss(served[0], served[1]) == pytest.approx(loss)


def test_a_plan_has_about_the_parameters_it_was_asked_for():
    for N in (3e8, 7e9, 7e10, 4e11):
        shape = allocate.shape_for(N)
        assert sum(allocate.count_parameters(shape).values()) == pytest.approx(N, rel=0.12)
        assert 60 < shape.d_model / shape.n_layers < 160
    assert allocate.gpu_hours(3.6e21, peak=1e15, utilization=0.5) == pytest.approx(2000)
    # model card; arXiv 2412.19437, table 1
    reported = {"Llama 3 405B": 30.84e6, "DeepSeek-V3": 2.664e6}
    for name, N, D, _ in allocate.PUBLISHED:
        if name in reported:
            assert allocate.gpu_hours(6 * N * D) == pytest.approx(reported[name], rel=0.2)
    assert allocate.training_memory(1e9) == 16e9


def test_a_plan_names_a_layout_that_fits_or_says_why_none_does():
    shape = allocate.shape_for(7e9)
    best = allocate.layout(shape, 16)
    assert best.place.ranks == 16 and best.memory.peak < 80e9 and 0.1 < best.mfu < 0.7
    assert 16 * best.memory.peak > allocate.training_memory(7e9) * 0.9        # the state is in there
    with pytest.raises(ValueError, match="no layout .*needs [0-9]+ GB.* choose more --gpus"):
        allocate.layout(allocate.shape_for(4e11), 8)
    for gpus in (3, 2 ** 20):
        with pytest.raises(ValueError, match="batch does not divide.* choose fewer --gpus, a power of two"):
            allocate.layout(shape, gpus)


def test_shares_of_the_law_sum_to_one_and_huber_is_square_then_straight():
    _, shares = log_law(np.array([[0.0, 800.0, 0.1, -900.0, 0.2]]), np.zeros(3), np.zeros(3))
    np.testing.assert_allclose(shares.sum(0), 1)
    assert np.isfinite(shares).all()
    value, pull = huber(np.array([0.05, -3.0]), 0.1)
    np.testing.assert_allclose(value, [0.00125, 0.295])
    np.testing.assert_allclose(pull, [0.05, -0.1])


def test_a_replica_that_determines_nothing_still_gives_a_number():
    wild = to_law(np.array([-2000.0, 30.0, 95.0, 1.0, -40.0]), 11.0, 12.0, None)
    losses = wild.loss(np.array([1e3, 1e4, 1e6]), np.array([1e2, 1e5, 1e7]))
    assert not np.isnan(losses).any() and (losses > 0).all()


def test_a_count_of_zero_is_refused_before_the_work_begins():
    done = command(ROOT / "05_scaling/run.py", "--seeds", 0)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--seeds 0: give 1 or more" in done.stderr
