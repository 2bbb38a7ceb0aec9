"""How the share that is gone grows while a network trains: a schedule is a pure function of the epochs that are done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from secateur.errors import SettingsError

ScheduleKind: TypeAlias = Literal["cubic", "linear", "one-shot"]

_POWERS: Final = {"cubic": 3, "linear": 1}


@dataclass(frozen=True, slots=True)
class Schedule:
    r"""The share that is gone, at :math:`t_0` and n times more, :math:`\Delta t` epochs apart.

    .. math::

        s_t = s_f + (s_i - s_f)\left(1 - \frac{t - t_0}{n\,\Delta t}\right)^p

    with p = 3 (``cubic``: much goes early, where much is superfluous, and little at the end) or 1 (``linear``). ``one-shot`` takes
    all at :math:`t_0`.

    Attributes:
        final: The share that is gone at the end, :math:`s_f`.
        kind: The law.
        initial: The share that is gone at :math:`t_0`, :math:`s_i`.
        begin: Epochs before the first cut, :math:`t_0`.
        every: Epochs between two cuts, :math:`\Delta t`.
        steps: Cuts after the one at :math:`t_0`, n; for ``one-shot`` it does not matter.

    Raises:
        SettingsError: A share or a number is out of its range, or there is no such law.

    Example:
        >>> [round(Schedule(0.9, every=6, steps=4).at(epoch), 3) for epoch in (0, 5, 6, 12, 18, 24, 30)]
        [0.0, 0.0, 0.52, 0.787, 0.886, 0.9, 0.9]

    Source:
        Zhu and Gupta 2017, To prune, or not to prune, arXiv:1710.01878, equation 1, with epochs in place of training steps.
    """

    final: float
    kind: ScheduleKind = "cubic"
    initial: float = 0.0
    begin: int = 0
    every: int = 1
    steps: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(ScheduleKind):
            raise SettingsError(
                f"schedule {self.kind!r} does not exist; those that do are {', '.join(get_args(ScheduleKind))}"
            )
        if not 0 <= self.initial <= self.final < 1:
            raise SettingsError(
                f"the share that is gone goes from {self.initial:g} to {self.final:g}; it must grow, from 0 on to less than 1"
            )
        for name, value, least in (
            ("begin", self.begin, 0),
            ("every", self.every, 1),
            ("steps", self.steps, 1),
        ):
            if value < least:
                raise SettingsError(f"{name}={value} must be at least {least}")

    @property
    def end(self) -> int:
        """Epochs after which the last cut takes place."""
        return self.begin if self.kind == "one-shot" else self.begin + self.every * self.steps

    def at(self, epoch: int) -> float:
        """The share that is gone after so many epochs; before the first cut none."""
        if epoch >= self.end:
            return self.final
        done = (epoch - self.begin) // self.every
        if done < 0:
            return 0.0
        left = (1.0 - done / self.steps) ** _POWERS[self.kind]
        return self.initial if done == 0 else self.final + (self.initial - self.final) * left

    def cuts(self) -> tuple[tuple[int, float], ...]:
        """When the share grows, and to what.

        Example:
            >>> Schedule(0.75, "linear", every=2, steps=3).cuts()
            ((2, 0.25), (4, 0.5), (6, 0.75))
        """
        times = range(self.begin, self.end + 1, self.every)
        shares = [(epoch, self.at(epoch)) for epoch in times]
        before = [0.0, *(share for _, share in shares)]
        return tuple(one for one, earlier in zip(shares, before, strict=False) if one[1] > earlier)
