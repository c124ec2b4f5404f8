"""Imitation and trial of the agent that repairs, whole, at its smallest."""
import torch

from code_agent import Settings, one_seed


def test_the_whole_loop_runs():
    s = Settings(shown_steps=4, shown_batch=2, rounds=2, tried_steps=1, tried_tasks=1, group=2,
                 worked_steps=2, tests=2)
    found = one_seed(s, 0, torch.device("cpu"))
    assert list(found["rows"]) == ["imitation", "imitation for longer", "before round 1", "trial 1",
                                   "what worked 1", "before round 2", "trial 2", "what worked 2"]
    assert len(found["rewards"]) == 2 and all(len(row["each"]) == 2 for row in found["rows"].values())
    assert found["grades"]["script"] == 1 and found["grades"]["does nothing"] == 0
    assert found["grades"]["model"] == found["grades"]["model, quick verdict"]
