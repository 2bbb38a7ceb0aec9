"""Criteria on activations."""

from __future__ import annotations

from torch import Tensor

from secateur.observe import Moments, Taylor


def mean_activation(moments: Moments) -> Tensor:
    r"""Mean magnitude of a unit's activation.

    :math:`s_c = \mathrm{mean}\, |h_c|` over examples, positions and readers.

    The magnitude, because a tanh unit that swings between -1 and 1 is not idle; behind a ReLU it is the mean itself, and
    as a ranking the summed activation.

    Args:
        moments: What was observed at the readers' inputs.

    Returns:
        Scores ``[channels]``, float64, in the unit of the activation.

    Example:
        >>> import torch
        >>> half = torch.tensor([0.5], dtype=torch.float64)
        >>> mean_activation(Moments(mean=-half, absolute=half, square=half, count=1))
        tensor([0.5000], dtype=torch.float64)

    Source:
        Polyak and Wolf 2015, Channel-level acceleration of deep face representations; mean activation as in
        Molchanov et al. 2017, arXiv:1611.06440.
    """
    return moments.absolute


def taylor_activation(taylor: Taylor) -> Tensor:
    r"""First-order estimate of the loss change if a unit's activation is zeroed.

    :math:`s_c = \frac{1}{N}\sum_n \left|\sum_r \frac{1}{P_r}\sum_p \frac{\partial C_n}{\partial h_{nrpc}} h_{nrpc}\right|`

    over N examples, the group's readers r and the P_r positions of the map that r reads: averaged over positions, added
    over readers, then the magnitude, then averaged over examples.

    Args:
        taylor: What was observed at the readers' inputs.

    Returns:
        Scores ``[channels]``, float64, in the unit of the loss per position.

    Example:
        >>> import torch
        >>> one = torch.ones(2, dtype=torch.float64)
        >>> taylor_activation(Taylor(magnitude=one, gate=-one))
        tensor([1., 1.], dtype=torch.float64)

    Source:
        Molchanov et al. 2017, arXiv:1611.06440, equation 8. They have one reader; several are added with their sign,
        because the unit goes from all of them at once.
    """
    return taylor.magnitude
