"""DeepSpeed ZeRO-2: every process has all weights; gradients and the optimizer's state are shared out."""

from typing import Any

from open_owl.train.recipe import Stage
from open_owl.train.stages import uses_bfloat16


def zero2_settings(stage: Stage) -> dict[str, Any]:
    """What DeepSpeed is to do for `stage`; optimizer, schedule and micro-batches are StageTrainer's own.

    In a bfloat16 stage DeepSpeed holds all weights in bfloat16, and float32 copies of its share of those that
    learn. So a stage's result is what learned on the checkpoint that it started from, not the module.
    """
    return {
        "zero_optimization": {"stage": 2, "contiguous_gradients": True, "overlap_comm": True},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": uses_bfloat16(stage)},
        "gradient_clipping": stage.optimizer.max_gradient_norm or 0.0,
        # An update is one batch to Trainer, and its end is told step by step.
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": "auto",  # DeepSpeed reads no data, but must have a number
    }
