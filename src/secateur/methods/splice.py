"""Dynamic network surgery: weights are cut while a network trains, and spliced in again where that was a mistake."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from secateur._model import copied, unwrapped
from secateur._options import expect, sentence
from secateur.criteria import WeightScores
from secateur.data import Splits
from secateur.errors import NothingToCutError, SettingsError
from secateur.methods.seeds import seed_for
from secateur.observe import layers_in
from secateur.surgery import Masks, mask, plan_weights
from secateur.train import EpochRecord, TrainSettings, TrainState, fit, make_optimizer
from secateur.train.conditions import batches

_NEW = 1e-3
"""The newest gradient's part in the running mean of their squares."""


class SpliceSettings(BaseModel):
    r"""Options of dynamic network surgery, checked when they are set.

    Attributes:
        remove: The share of all weights of dense and convolutional layers that goes, by one threshold for all of them; or the
            share of each layer by its name, and the others stay whole. It is met to one weight. None leaves the share to ``factor``.
        factor: In place of a share: a layer's threshold is the mean of its absolute weights plus so many times their
            deviation, taken once, at the start.
        sensitivity: How much a weight's size is weighed by the gradients that it sees: the exponent k of
            :math:`|w|\,\bar g^k`, with :math:`\bar g` the running root mean square of its gradient. 0 is the size alone.
        band: Weights are cut below (1 - band) times the threshold and come back above (1 + band) times it.
        regrow: Cut weights go on being trained by the gradient of the masked network, and may come back. Without, what is cut stays
            at zero.
        until: The share of all steps after which the masks are fixed; 0 fixes them before the first.
        every: Steps between two times that the masks may change.
        gamma: The chance that they do is :math:`(1 + \gamma\\, i)^{-p}` at step i; 0 is always.
        power: The exponent p of that.
        training: How the network is trained. ``keep`` and ``early_stopping`` do not matter: the last epoch's weights are kept.
        seed: What every random choice follows from.

    Raises:
        SettingsError: An option is unknown or out of its range, or both or neither of ``remove`` and ``factor`` are given.

    Example:
        >>> SpliceSettings(remove=0.9).until
        0.6
        >>> SpliceSettings()
        Traceback (most recent call last):
        ...
        secateur.errors.SettingsError: give either remove, the share of the weights that goes, or factor, which sets each layer's threshold
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    remove: float | dict[str, float] | None = None
    factor: float | None = None
    sensitivity: float = Field(default=0.0, ge=0)
    band: float = Field(default=0.1, ge=0, lt=1)
    regrow: bool = True
    until: float = Field(default=0.6, ge=0, le=1)
    every: int = Field(default=10, ge=1)
    gamma: float = Field(default=1e-3, ge=0)
    power: float = Field(default=1.0, ge=0)
    training: TrainSettings = Field(
        default_factory=lambda: TrainSettings(lr=0.05, nesterov=True, schedule="cosine", clip=1.0)
    )
    seed: int = Field(default=0, ge=0)

    if not TYPE_CHECKING:

        def __init__(self, **options):
            try:
                super().__init__(**options)
            except ValidationError as error:
                raise SettingsError(sentence(error, SpliceSettings, of=" of splicing")) from None

    @model_validator(mode="after")
    def _agree(self) -> SpliceSettings:
        if (self.remove is None) == (self.factor is None):
            raise ValueError(
                "give either remove, the share of the weights that goes, or factor, which sets each layer's threshold"
            )
        if self.factor is not None and self.sensitivity:
            raise ValueError(
                "factor sets thresholds for the weights' own sizes; leave out sensitivity, or give remove"
            )
        shares = self.remove.values() if isinstance(self.remove, dict) else [self.remove or 0.0]
        wrong = next((share for share in shares if not 0 <= share < 1), None)
        if wrong is not None:
            raise ValueError(f"remove={wrong:g} is no share from 0 up to, but not including, 1")
        return self


@dataclass(frozen=True, eq=False)
class SpliceResult:
    """What dynamic network surgery made.

    Attributes:
        model: A network of the same shape, in eval mode; the weights that went are zero.
        masks: Which weights stayed.
        history: One record an epoch.
        returned: How many times a weight that had been cut came back.
    """

    model: nn.Module
    masks: Masks
    history: tuple[EpochRecord, ...]
    returned: int


def splice(
    model: nn.Module,
    data: Splits,
    settings: SpliceSettings,
    *,
    teacher: nn.Module | None = None,
    state: TrainState | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
    on_state: Callable[[TrainState], None] | None = None,
) -> SpliceResult:
    r"""Cut weights while a network trains, and let those come back whose cutting was a mistake.

    The network runs with masked weights :math:`w \odot m`, and the step of the optimiser, with the gradient for the masked weights, is
    applied to w, cut weights included. Every so often the masks follow the weights:

    .. math::

        m \leftarrow 0 \text{ where } |w| < (1-\epsilon)\,t, \qquad m \leftarrow 1 \text{ where } |w| > (1+\epsilon)\,t,

    and between the two stays as it is. The threshold t is each layer's :math:`\max(0, \mathrm{mean}|w| + c\,\mathrm{std}|w|)`; or it is
    where the wanted share of the weights is below it, which grows from 0 by a cubic law. After the share ``until`` of all steps the
    masks are fixed, to one weight, and what is cut is forgotten: the rest is plain training under masks.

    With a ``sensitivity`` k the size :math:`|w|` is weighed: :math:`|w|\,\bar g^k`, where :math:`\bar g^2` is the running mean of the
    squared gradient of a step. At k = 1 that is the root of twice the damage of optimal brain damage with the Fisher information for the
    Hessian; a half lies between it and the size, and keeps more where the layers are narrow.

    Without regrowth, cut weights are zero and see no gradient (as under :func:`secateur.surgery.holding`): gradual magnitude pruning.
    Nothing of the model's structure is changed on the way; the swap takes place around the optimiser's steps.

    Args:
        model: A trained network; it is left as found.
        data: Learned from is the training split, each epoch is judged on the validation split; the test split is not read.
        settings: The protocol.
        teacher: A network to imitate, for instance ``model`` itself; see :func:`secateur.train.fit`.
        state: Goes on from here, bit by bit as the run that gave it to ``on_state``.
        on_epoch: Told of each epoch.
        on_state: Given a copy of everything after each epoch.

    Returns:
        The network, its masks, and the history.

    Raises:
        SettingsError: There is no layer of a name, or the state is of another run.
        NothingToCutError: There is no dense or convolutional layer.
        DataError: Network and data do not fit.
        ModelError: The loss is no longer finite.

    Example:
        >>> from secateur import data, networks
        >>> digits = data.load("digits", limit=300)
        >>> net = networks.build("digits-net", seed=0)
        >>> found = splice(net, digits, SpliceSettings(remove=0.75, training=TrainSettings(epochs=2)))
        >>> found.masks.left, found.masks.total
        (10052, 40208)

    Source:
        Guo, Yao and Chen 2016, Dynamic network surgery for efficient DNNs, arXiv:1608.04493, equations 3 and 4, section 3.3; band and thresholds of
        the mean and deviation as in the authors' program. There convolutional and dense layers are cut in turn. The share that grows by a cubic
        law: Zhu and Gupta 2017, arXiv:1710.01878. Fisher information for the Hessian: Theis et al. 2018, arXiv:1801.05787; exponents other than
        0 and 1 are ours.
    """
    expect(
        "splice(model, data, SpliceSettings(remove=0.9))",
        model=(model, nn.Module), data=(data, Splits), settings=(settings, SpliceSettings),
    )  # fmt: skip
    made = copied(unwrapped(model), {})
    training = settings.training.but(keep="last", early_stopping=None)
    optimizer = make_optimizer(made.parameters(), training)
    each = len(batches(torch.arange(len(data.train)), training.batch_size))
    splicer = _Splicer(made, settings, each * training.epochs)
    if state is None:
        splicer.begin()
    else:
        splicer.load(state)
    with splicer.around(optimizer):
        result = fit(
            made, data.train, data.validation, training,
            seed=settings.seed, teacher=teacher, optimizer=optimizer, state=state, on_epoch=on_epoch,
            on_state=None if on_state is None else lambda given: on_state(splicer.added_to(given)),
        )  # fmt: skip
    masks = Masks(splicer.kept)
    return SpliceResult(mask(made, masks, inplace=True).eval(), masks, result.history, splicer.returned)


class _Splicer:
    """The masks of one run, and the weights behind them."""

    def __init__(self, model: nn.Module, settings: SpliceSettings, steps: int) -> None:
        given = settings.remove
        shares = given if isinstance(given, dict) else None
        chosen = layers_in(model, shares)
        if not chosen:
            raise NothingToCutError(
                "the network has no dense or convolutional layer with a weight of its own; prune its units instead"
            )
        self.model, self.settings = model, settings
        self.optimizer: torch.optim.Optimizer | None = None
        self.weights = {name: model.get_parameter(name) for name in chosen}
        self.kept = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self.weights.items()}
        self.pools = (
            [(list(layers_in(model, [name])), share) for name, share in given.items()]
            if isinstance(given, dict)
            else [(list(chosen), given or 0.0)]
        )
        self.fixed_at, self.step, self.returned = round(settings.until * steps), 0, 0
        spread = {name: w.detach()[w != 0].abs() for name, w in self.weights.items()}
        self.thresholds = {} if settings.factor is None else {
            name: max(0.0, float(sizes.mean() + settings.factor * sizes.std(correction=0)))
            for name, sizes in spread.items()
        }  # fmt: skip
        self.dense = {name: w.detach().clone() for name, w in self.weights.items()} if self.open else {}
        watched = self.weights if settings.sensitivity and not self.fixed else {}
        self.squares = {name: torch.zeros_like(w, requires_grad=False) for name, w in watched.items()}

    @property
    def fixed(self) -> bool:
        """Whether the masks are what they will be at the end."""
        return self.step >= self.fixed_at

    @property
    def open(self) -> bool:
        """Whether cut weights are trained, too."""
        return self.settings.regrow and not self.fixed

    @torch.no_grad()
    def begin(self) -> None:
        """Before the first step."""
        if self.fixed:
            self._settle()
            self._show()

    @contextmanager
    def around(self, optimizer: torch.optim.Optimizer) -> Generator[None]:
        """Inside, each step of the optimiser is taken by the weights behind the masks, and the network runs with the masks."""
        self.optimizer = optimizer
        with ExitStack() as hooks:
            hooks.callback(optimizer.register_step_pre_hook(self._before).remove)
            hooks.callback(optimizer.register_step_post_hook(self._after).remove)
            for name, weight in self.weights.items():
                if weight.requires_grad:
                    hooked: Any = weight  # torch leaves the hook's type open
                    hooks.callback(hooked.register_post_accumulate_grad_hook(self._clearing(name)).remove)
            yield

    def _clearing(self, name: str) -> Callable[[Tensor], None]:
        """What is done to a gradient that has just been added to: none for what is cut for good."""

        def clear(weight: Tensor) -> None:
            if not self.open and weight.grad is not None:
                weight.grad.masked_fill_(~self.kept[name], 0)

        return clear

    @torch.no_grad()
    def _before(self, *_: object) -> None:
        for name, square in self.squares.items():
            gradient = self.weights[name].grad
            if gradient is not None:
                square.lerp_(gradient.square(), _NEW)
        for name, dense in self.dense.items():
            self.weights[name].copy_(dense)

    @torch.no_grad()
    def _after(self, *_: object) -> None:
        for name, dense in self.dense.items():
            dense.copy_(self.weights[name])
        if not self.fixed:
            self.step += 1
            if self.fixed:
                self._settle()
            elif self.step % self.settings.every == 0 and self._drawn():
                self._follow()
                if not self.open:
                    self._forget()
        self._show()

    def _show(self) -> None:
        """The network has the weights that stay, and zeros."""
        for name, weight in self.weights.items():
            weight.masked_fill_(~self.kept[name], 0)

    def _drawn(self) -> bool:
        settings = self.settings
        chance = (1.0 + settings.gamma * self.step) ** -settings.power
        return seed_for(settings.seed, "splice", self.step) < chance * 2**32

    def _sizes(self, name: str) -> Tensor:
        """By which the masks are decided; without regrowth, what is cut is below all others."""
        size = self.dense.get(name, self.weights[name]).detach().abs()
        if name in self.squares:
            size = size * self.squares[name].pow(self.settings.sensitivity / 2)
        return size if self.settings.regrow else size.masked_fill(~self.kept[name], -1.0)

    def _follow(self) -> None:
        """Cut below the band, take back above it."""
        band = self.settings.band if self.settings.regrow else 0.0
        left = (1.0 - self.step / self.fixed_at) ** 3 if self.fixed_at else 0.0
        for names, share in self.pools:
            sizes = {name: self._sizes(name) for name in names}
            threshold = _lowest(sizes.values(), share * (1.0 - left))
            for name, size in sizes.items():
                t = self.thresholds.get(name, threshold)
                self._keep(name, (size > (1.0 + band) * t) | (self.kept[name] & (size > (1.0 - band) * t)))

    def _settle(self) -> None:
        """The last masks; where a share is wanted, exactly so many weights go."""
        if self.thresholds:
            self._follow()
        else:
            scores = WeightScores("splice", "weight", {n: self._sizes(n).double().cpu() for n in self.kept})
            shares = self.settings.remove
            asked = [(names, max(share, self._cut_of(names))) for names, share in self.pools]
            by_weight = {names[0]: share for names, share in asked} if isinstance(shares, dict) else None
            masks = plan_weights(
                self.model, scores, remove=by_weight or asked[0][1], scope="global",
                within=None if self.settings.regrow else Masks(self.kept),
            )  # fmt: skip
            for name, kept in masks.kept.items():
                self._keep(name, kept.to(self.kept[name].device))
        self.dense, self.squares = {}, {}
        self._forget()

    def _cut_of(self, names: Sequence[str]) -> float:
        """The share of some layers' weights that is cut for good: without regrowth, weights that are equal go together."""
        if self.settings.regrow:
            return 0.0
        kept = torch.cat([self.kept[name].flatten() for name in names])
        return 1.0 - int(kept.sum()) / len(kept)

    def _forget(self) -> None:
        """Moments of what is cut for good: left to decay they become numbers too small for a processor to be quick with."""
        for name, weight in self.weights.items():
            held: Mapping[str, Any] = {} if self.optimizer is None else self.optimizer.state.get(weight, {})
            for moment in held.values():
                if isinstance(moment, Tensor) and moment.shape == weight.shape:
                    moment.masked_fill_(~self.kept[name], 0)

    def _keep(self, name: str, kept: Tensor) -> None:
        self.returned += int((kept & ~self.kept[name]).sum())
        self.kept[name] = kept

    def added_to(self, state: TrainState) -> TrainState:
        """A state of training with what is needed here."""
        parts = {"mask": self.kept, "dense": self.dense, "square": self.squares}
        mine = {f"{part}/{name}": t.clone() for part, tensors in parts.items() for name, t in tensors.items()}
        said = {
            "settings": self.settings.model_dump(mode="json"),
            "step": self.step,
            "returned": self.returned,
        }
        return replace(state, tensors={**state.tensors, **mine}, document={**state.document, "splice": said})

    def load(self, state: TrainState) -> None:
        """Go on from a state of the same run."""
        said = state.document.get("splice")
        if said is None or said["settings"] != self.settings.model_dump(mode="json"):
            raise SettingsError(
                "the state is of a training with other settings of splicing, or with none; use the settings that it was begun"
                " with"
            )
        self.step, self.returned = int(said["step"]), int(said["returned"])
        where = next(iter(self.weights.values())).device
        self.kept, self.dense, self.squares = (
            {name: tensor.to(where).clone() for name, tensor in state.part(part).items()}
            for part in ("mask", "dense", "square")
        )


def _lowest(sizes: Collection[Tensor], share: float) -> float:
    """The size that this share of all is not above; below all where nothing is to go."""
    every = torch.cat([size.flatten() for size in sizes])
    count = round(share * len(every))
    return float(every.kthvalue(count).values) if count else -math.inf
