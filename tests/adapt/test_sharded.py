"""Parameters that are sharded: refused by `finetune`, which says where they train."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from trimtab import Feedback, finetune, load
from trimtab.errors import ModelError
from trimtab.train.hosted import is_sharded
from worlds import QUICK, domain, llama, tokenizer


@pytest.fixture
def alone() -> Iterator[None]:
    """A group of this process alone."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_finetune_refuses_them_before_any_work_and_says_where_they_train() -> None:
    network = llama()
    assert not is_sharded(load(network, tokenizer=tokenizer()))
    fully_shard(network)
    assert all(isinstance(parameter, DTensor) for parameter in network.parameters())
    model = load(network, tokenizer=tokenizer())
    assert is_sharded(model)
    mixer = Feedback(targets=["math"], constraints={"web": 0.05})
    with pytest.raises(ModelError, match=r"sharded.*TrainerMixture"):
        finetune(model, train={"math": domain("math"), "web": domain("web")}, mixer=mixer, fit=QUICK)
