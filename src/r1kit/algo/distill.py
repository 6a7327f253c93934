"""The loss of on-policy distillation: the reverse KL from student to teacher at each token that the student sampled.

GKD (arXiv 2306.13649, section 3): the student's own samples, a divergence of the two next-token distributions at every
position, no gradient through the sampling. It is taken over the whole vocabulary; Thinking Machines ("On-policy
distillation", 2025) estimate it from the sampled token, with log p_teacher - log p_student as its advantage. The mean
of the gradient is the same, without the noise of one sample (for which MiniLLM, arXiv 2306.08543, takes its single-step
term exactly), and as both models are here it costs a product with the head. What a token does to the positions after it
is left out, as in both.

Shapes: N completion tokens, V vocabulary, D and E widths of student and teacher.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 1024  # completion tokens whose logits, of both models, exist at a time


def reverse_kl(student_logits_NV: Tensor, teacher_logits_NV: Tensor, temperature: float) -> Tensor:
    """KL(student || teacher) [N] = sum_v p_student (log p_student - log p_teacher), nats, both at `temperature`."""
    student_NV = (student_logits_NV / temperature).log_softmax(-1)
    teacher_NV = (teacher_logits_NV / temperature).log_softmax(-1)
    return (student_NV.exp() * (student_NV - teacher_NV)).sum(-1)


def reverse_kl_of_hidden(
    hidden_ND: Tensor, unembed: Callable[[Tensor], Tensor], teacher_hidden_NE: Tensor,
    teacher_unembed: Callable[[Tensor], Tensor], temperature: float, *, chunk: int = CHUNK,
) -> Tensor:  # fmt: skip
    """`reverse_kl` [N] of last hidden states, never holding more than `chunk` x V logits of a model.

    `unembed` and `teacher_unembed` make fp32 logits of them. The gradient goes to the student's hidden states and to
    what `unembed` is made of; its logits are made again for it.
    """

    def of_chunk(hidden: Tensor, teacher_hidden: Tensor) -> Tensor:
        return reverse_kl(unembed(hidden), teacher_unembed(teacher_hidden), temperature)

    parts = [
        checkpoint(of_chunk, hidden, teacher_hidden, use_reentrant=False, preserve_rng_state=False)
        for hidden, teacher_hidden in zip(hidden_ND.split(chunk), teacher_hidden_NE.split(chunk), strict=True)
    ]
    return torch.cat(parts)  # type: ignore[arg-type]
