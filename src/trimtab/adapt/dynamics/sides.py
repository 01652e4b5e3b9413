"""Two sides of a mixture: how much goes to the targets is one number, what the rest is made of is another question.

How much target training the constraints bear is planned from now to the end of the run (`best_share`): of all shares,
the one whose targets fall furthest before a constraint meets its limit, along the slopes as last measured. It is
planned again at every reading, and the share moves there by a bounded step, so that an error of the plan shows up as
slack and is taken back.

The rest starts from shares that roles suggest (`first_rest`). Slopes may depart from them only as far as a confidence
bound of what is gained says that it pays, which is safe policy improvement. So where slopes are noise, the rest stays
as it was. With d = q - e the departure of the rest's mixture q from the first shares e, n the steps of the rest ahead,
and g_i(d) = n S_i d + kappa n ||se_i * d|| the pessimistic change of loss i that it brings:

    maximise over q   worth * t - g(d) of the targets' mean loss
    subject to        g_i(d) <= slack_i - t      for each constraint i

Slopes need a rest that varies: in each block it leans to one of its domains, in turn, so that no step is spent on
measuring. A domain with a small first share leans less deep and gets somewhat less than its share. Blocks that are long
past say little of what mends a constraint now.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import clarabel
import numpy as np
from jaxtyping import Float

from trimtab.adapt.dynamics.planning import LossState, MeasuredSlopes, Planning, shrink_slopes
from trimtab.adapt.dynamics.slopes import SETTLED, BlockHistory, fitted, read_block
from trimtab.adapt.mixer import Decision, Needs, State, Update, not_finite, off_grid, scale
from trimtab.adapt.session import Roles, Session, SlopeEstimate
from trimtab.errors import DivergedError
from trimtab.numerics.cone import cone_solution, on_simplex
from trimtab.numerics.simplex import MixtureSolution, spread
from trimtab.train.settings import Fit, evaluation_steps

PACE = 16.0
"""How far the log-odds of the targets' share move over a run, at most; half of it while there are no slopes yet."""
FLOOR = 0.05
"""Neither side gets less than this share: from a side that is never trained on nothing is learned."""
SHARES = 41
"""Shares of the targets that a plan considers, evenly spaced in log-odds."""
STRANGER = 0.25
"""First share of a domain that is neither target nor constraint, beside 1 of a constraint to train on."""
EXPLORED = 0.2
"""Part of the blocks that go by turns, whatever slopes say, so that what was set aside is seen again."""
GLANCE = 0.25
"""Part of its lean that a block keeps where it leans towards a domain which was set aside."""
RECENT = 0.5
"""Share of a run after which what a block taught counts 1 / e."""
SEEN = 3
"""Blocks before slopes are asked."""
AHEAD = 0.25
"""Share of a run that a departure of the rest is judged over, at most."""
LEAST_WORTH, MOST_WORTH = 1e-3, 10.0
"""Nats of the targets that a nat of the tightest constraint is taken to buy, at least and at most."""
RESERVE = 0.15
"""Part of each tolerance that a plan leaves unused, for what it gets wrong."""
MENDED = 0.3
"""Part of the steps ahead within which a plan has to bring a broken constraint back."""
ALIKE = 1e-9
"""Nats by which two plans have to differ to be told apart; where slopes do not say which domain matters, none does."""
PATIENCE = 4
"""Readings in a row at the least share of the targets, with a constraint broken, before a run may be given up."""
STRAIGHT = Planning()


@dataclass(frozen=True)
class Sides:
    """How a run is steered on two sides; see `trimtab.adapt.dynamics.mixer.DynaMiCS` for the settings."""

    blocks: int
    lean: float
    kappa: float
    shrink: bool

    def decide(self, session: Session, state: State) -> Decision:
        """Read what must be judged, move the share of the targets, and compose the rest.

        Raises:
            DivergedError: a loss is not finite.
        """
        roles, names = session.roles, judged(session.roles)
        memory = dict(state)
        log_odds, floored = float(memory.pop("log_odds", 0.0)), list(memory.pop("floored", ()))
        gone = session.step - int(memory.get("step", 0))
        history, now = read_block(session, STRAIGHT, memory, names)
        if lost := [
            name for name, change in zip(names, now.change, strict=True) if not math.isfinite(change)
        ]:
            raise DivergedError(not_finite(", ".join(lost), session.step))
        slack = left_of(session, names, now)
        reserve = {name: RESERVE * scale(roles, name) for name in slack}
        room = np.array([slack[name] - reserve[name] if name in slack else math.nan for name in names])
        tightest = min(slack[name] / scale(roles, name) for name in roles.tolerances)
        rest, measured = first_rest(roles), None
        if len(history.ends) < SEEN:
            log_odds += PACE / 2 * gone / session.steps * max(-1.0, min(1.0, tightest))
        else:
            measured = self.measured(session, history, names)
            outlook = Outlook(names, measured.slopes, measured.errors, room)
            near = min(session.steps, session.step + math.ceil(AHEAD * session.steps))
            steps = _share(log_odds, -1) * float(session.rates(session.step, near).sum())
            rest = rest_mixture(roles, outlook, steps, self.kappa)
            ahead = float(session.rates(session.step, session.steps).sum())
            aim, most = _log_odds(best_share(roles, outlook, rest, ahead)), PACE * gone / session.steps
            log_odds += max(-most, min(most, aim - log_odds))
        log_odds = max(_log_odds(FLOOR), min(-_log_odds(FLOOR), log_odds))
        mass = _share(log_odds)
        leaning, credit = self._leaning(session, rest, history.credit)
        on_targets = np.array(spread(roles.train, roles.trainable_targets, mass))
        weights = on_targets + (1 - mass) * leaning
        later = self._next_border(session)
        update = measured and _update(session, names, measured, now, slack, later, weights)
        floored = [*floored, (session.step, tightest)] if mass <= FLOOR + 1e-9 and tightest < 0 else []
        kept = {**history.with_mixture(weights, credit), "log_odds": log_odds, "floored": floored}
        shares, ask_at = tuple(map(float, weights)), later if later < session.steps else None
        return Decision(shares, ask_at, kept, update or None, given_up(session, slack, floored))

    def measured(self, session: Session, history: BlockHistory, names: Sequence[str]) -> MeasuredSlopes:
        """Slopes of what is judged, from all blocks so far, older ones counting less."""
        found = fitted(session, history, self.blocks, RECENT)
        return shrink_slopes(session.roles, found, names) if self.shrink else found

    def needs(self, fit: Fit) -> Needs:
        """Planned cost: a reading of some sequences of what is judged at each border off the evaluation grid."""
        grid = evaluation_steps(fit.steps, fit.eval_points)
        steps = [0]
        while (step := self._border(steps[-1], fit.steps, grid)) < fit.steps:
            steps.append(step)
        return Needs(judged_readings=off_grid(steps, fit))

    def _next_border(self, session: Session) -> int:
        return self._border(session.step, session.steps, session.grid)

    def _border(self, step: int, total: int, grid: Sequence[int]) -> int:
        """The end of the block that begins at a step; none crosses a point of the grid, whose reading is free."""
        block = max(1, round(total / self.blocks))
        return min(step + block, total, *grid[bisect_right(grid, step) :][:1])

    def _leaning(
        self, session: Session, rest: Float[np.ndarray, " N"], credit: Sequence[float]
    ) -> tuple[Float[np.ndarray, " N"], list[float]]:
        """The rest's mixture in this block, leaning to the domain that is owed most, and each domain's credit then."""
        if session.step >= (1 - SETTLED) * session.steps:
            return rest, list(credit)
        first = first_rest(session.roles)
        balances = np.array(credit) + (1 - EXPLORED) * rest + EXPLORED * (first > 0) / (first > 0).sum()
        richest = int(balances.argmax())
        balances[richest] -= 1
        lean = self.lean * max(GLANCE, min(1.0, float(rest[richest] / first.max())))
        mixture: np.ndarray = (1 - lean) * rest + lean * np.eye(len(rest))[richest]
        return mixture, balances.tolist()


def judged(roles: Roles) -> tuple[str, ...]:
    """The targets and constraints, in the order of evaluation domains: all that has to be read between two points."""
    return tuple(name for name in roles.evaluate if name in roles.targets or name in roles.tolerances)


def left_of(session: Session, names: Sequence[str], now: LossState) -> dict[str, float]:
    """Nats per token by which each constraint may still rise before a checkpoint would break it."""
    reserve = session.margin * now.error if session.margin else np.zeros(len(names))
    room = zip(names, now.change + reserve, strict=True)
    return {
        name: session.roles.tolerance(name) - used for name, used in room if name in session.roles.tolerances
    }


def best_share(roles: Roles, outlook: Outlook, rest: Float[np.ndarray, " N"], ahead: float) -> float:
    """The share of the targets at which they fall furthest while every constraint is kept.

    A share is worth the fall of the targets up to the last step, of those ahead, at which all constraints are kept. One
    that is broken has to be mended within the first three tenths of them: a plan that mends it just in time comes late.
    Where no share does, the one that ends nearest to the limits is best. Of shares that are worth the same, the least.

    Args:
        roles: the domains by role.
        outlook: slopes and slack; slopes that are not known count as 0.
        rest: (N,) the mixture of the other side.
        ahead: steps to the end of the run, at the peak of the learning rate.
    """
    bound = -_log_odds(FLOOR)
    shares = np.array([_share(odds) for odds in np.linspace(-bound, bound, SHARES)])
    on_targets = np.array(spread(roles.train, roles.trainable_targets))
    mixtures = shares[:, None] * on_targets + (1 - shares[:, None]) * rest
    moved = mixtures @ np.nan_to_num(outlook.slopes).T
    limited = np.isfinite(outlook.slack)
    slack, rates = outlook.slack[limited], moved[:, limited]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = slack / rates
    until = np.where((slack >= 0) & (rates > 0), crossing, math.inf).min(axis=1).clip(max=ahead)
    mended = np.where(rates < 0, crossing, math.inf)
    since = np.where(slack < 0, mended, 0.0).max(axis=1)
    fallen = -moved[:, ~limited].mean(axis=1) * until
    excess = (rates * ahead - slack).max(axis=1)
    kept = since <= np.minimum(until, MENDED * ahead)
    worth = np.where(kept, fallen, -math.inf) if kept.any() else -excess
    return float(shares[(worth >= worth.max() - ALIKE).argmax()])


def _share(log_odds: float, sign: int = 1) -> float:
    return 1 / (1 + math.exp(-sign * log_odds))


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))


def first_rest(roles: Roles) -> Float[np.ndarray, " N"]:
    """The rest's shares before slopes are known: (N,), summing to one, none for targets.

    Training on a constraint mends at least that one. Other domains mend nothing for sure, so they get a part of its
    share where some target or constraint cannot be trained on, and nothing where all can. Where no constraint can be
    trained on, all share evenly.

    >>> from trimtab.adapt.session import make_roles
    >>> first_rest(make_roles(["math", "web", "news"], ["safety"], ["math"], {"web": 0.1, "safety": 0.1})).tolist()
    [0.0, 0.8, 0.2]
    """
    others = [name for name in roles.train if name not in roles.targets]
    own = [name for name in others if name in roles.tolerances]
    untrained = any(name not in roles.train for name in judged(roles))
    stranger = (STRANGER if untrained else 0.0) if own else 1.0
    shares = np.array([1.0 if name in own else stranger * (name in others) for name in roles.train])
    first: np.ndarray = shares / shares.sum()
    return first


@dataclass(frozen=True, eq=False)
class Outlook:
    """What a choice is judged by.

    Attributes:
        names: the M targets and constraints.
        slopes, errors: (M, N) change of each loss per step on each domain, nats per token.
        slack: (M,) nats by which each constraint may still rise; nan for targets.
    """

    names: Sequence[str]
    slopes: Float[np.ndarray, "M N"]
    errors: Float[np.ndarray, "M N"]
    slack: Float[np.ndarray, " M"]


def rest_mixture(roles: Roles, outlook: Outlook, steps: float, kappa: float) -> Float[np.ndarray, " N"]:
    """The rest's mixture: its first shares, but for departures that clearly pay.

    Args:
        roles: the domains by role.
        outlook: slopes and slack.
        steps: of the rest that are looked ahead.
        kappa: standard errors that a departure has to be worth.

    Returns:
        (N,) shares that sum to one; zero for targets, and for domains whose slopes are not known.
    """
    first = first_rest(roles)
    known = np.isfinite(outlook.slopes).all(axis=0) & np.isfinite(outlook.errors).all(axis=0)
    usable = known & np.array([name not in roles.targets for name in roles.train])
    if usable.sum() < 2 or not first[usable].sum() > 0 or steps <= 0:
        return first
    even = first[usable] / first[usable].sum()
    noise = kappa * steps * outlook.errors[:, usable]
    found = _safest(
        steps * outlook.slopes[:, usable], noise, outlook.slack, even, _worth(roles, outlook, first)
    )
    if found is None:
        return first
    mixture = np.zeros(len(first))
    mixture[usable] = found
    return mixture


def _worth(roles: Roles, outlook: Outlook, rest: Float[np.ndarray, " N"]) -> float:
    """Nats of the targets per nat of the tightest constraint: what moving a little mass between the sides trades."""
    on_targets = np.array(spread(roles.train, roles.trainable_targets))
    moved = np.nan_to_num(outlook.slopes) @ (on_targets - rest)
    gained = -float(moved[np.isnan(outlook.slack)].mean())
    paid = float(moved[int(np.nanargmin(outlook.slack))])
    if gained <= 0:
        return LEAST_WORTH
    return max(LEAST_WORTH, min(MOST_WORTH, gained / paid)) if paid > 0 else MOST_WORTH


def _safest(
    change: Float[np.ndarray, "M n"],
    noise: Float[np.ndarray, "M n"],
    slack: Float[np.ndarray, " M"],
    first: Float[np.ndarray, " n"],
    worth: float,
) -> Float[np.ndarray, " n"] | None:
    """The cone programme in (q, t, s), where s bounds the pessimistic change of the targets' mean; None if it fails."""
    n, targets = len(first), np.isnan(slack)
    rows = [(change[i], noise[i], slack[i], (1.0, 0.0)) for i in np.flatnonzero(~targets)]
    error = np.sqrt((noise[targets] ** 2).sum(axis=0)) / targets.sum()
    rows.append((change[targets].mean(axis=0), error, 0.0, (0.0, -1.0)))
    size = max(float(np.abs([change, noise]).max()), 1e-12)
    blocks = [np.append(np.ones(n), [0.0, 0.0])[None], _with_levels(-np.eye(n))]
    bounds = [np.ones(1), np.zeros(n)]
    cones: list[Any] = [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(n)]
    for row, errors, room, levels in rows:
        spread_out = -np.diag(errors) / size
        blocks.append(np.vstack([np.append(row / size, levels), _with_levels(spread_out)]))
        bounds.append(np.append((room + row @ first) / size, spread_out @ first))
        cones.append(clarabel.SecondOrderConeT(1 + n))
    cost = np.append(np.zeros(n), [-worth, 1.0])
    flat = np.zeros((n + 2, n + 2))
    found = cone_solution(flat, cost, np.concatenate(blocks), np.concatenate(bounds), cones, fallback=1e-5)
    return None if found is None else on_simplex(np.array(found.x)[:n].clip(0), 1e-6)


def _with_levels(block: np.ndarray) -> np.ndarray:
    return np.append(block, np.zeros((len(block), 2)), axis=1)


def _update(
    session: Session,
    names: Sequence[str],
    measured: MeasuredSlopes,
    now: LossState,
    slack: Mapping[str, float],
    later: int,
    weights: Float[np.ndarray, " N"],
) -> Update:
    """The record of the update, slopes at the learning rates until the next; what is not read then is nan."""
    every, horizon = session.roles.evaluate, later - session.step
    rows = [every.index(name) for name in names]
    slopes, errors = np.full((2, len(every), len(weights)), math.nan)
    rate = float(session.rates(session.step, later).mean())
    slopes[rows], errors[rows] = rate * measured.slopes, rate * measured.errors
    predicted, broken = np.full(len(every), math.nan), np.full(len(every), math.nan)
    base = np.array([session.reference[name].loss for name in names])
    moved = measured.moved(horizon * rate * weights)
    predicted[rows] = base + now.change + moved
    for name, room in slack.items():
        broken[every.index(name)] = max(0.0, -room)
    conflicts = tuple(int(k) for k in np.flatnonzero(np.nan_to_num(broken) > 0))
    fallen = float(moved[[name in session.roles.targets for name in names]].sum())
    status: Literal["broken", "kept"] = "broken" if conflicts else "kept"
    prices = np.full(len(every), math.nan)
    solution = MixtureSolution(weights, predicted, status, broken, conflicts, prices, fallen)
    return Update(horizon, SlopeEstimate(slopes, errors, measured.steps), solution)


def given_up(
    session: Session, slack: Mapping[str, float], floored: Sequence[tuple[int, float]]
) -> str | None:
    """Why the run ends here: a constraint is broken and no longer mended by the least target training there is.

    Args:
        session: the run.
        slack: nats that are left of each constraint.
        floored: (step, slack of the tightest constraint in tolerances) of the readings in a row at which the targets
            had their least share while a constraint was broken.
    """
    if len(floored) < PATIENCE:
        return None
    (start, before), (step, now) = floored[-PATIENCE], floored[-1]
    rate = (now - before) / (step - start)
    if now + rate * (session.steps - step) >= 0:
        return None
    names = [name for name, room in slack.items() if room < 0]
    broken = f"{' and '.join(names)} {'stays' if len(names) == 1 else 'stay'} broken"
    return f"{broken} with the least target training there is, since step {floored[0][0]}"
