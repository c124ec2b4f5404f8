"""What a pool of processes meets in a course on training: torch has computed already."""
import os

import torch


def after_backward(monkeypatch) -> None:
    """Run a backward pass, and make it an error from now on to fork this process.

    On a machine with a CUDA device such a fork cannot compute; here it could, and the mistake would not show.
    """
    torch.ones(2, requires_grad=True).square().sum().backward()

    def fork():
        raise AssertionError("forked after torch has computed: use workbench.process_pool")
    monkeypatch.setattr(os, "fork", fork)
