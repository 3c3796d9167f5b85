"""What is asked of every stage before the first of them trains, so that no error waits for days."""

from open_owl.data.stream import Supply
from open_owl.quantized_linear import refuse_without_bitsandbytes
from open_owl.train.kernels import refuse_without_liger
from open_owl.train.layers import refuse_without_compiler
from open_owl.train.parallel import count, first_on_each_node
from open_owl.train.recipe import Stage


def refuse_what_cannot_run(stage: Stage) -> None:
    """Asks for the processes, what this machine has, and the number of rows; every process has to call it.

    Raises:
        ValueError: `stage` cannot run here, or not on these data.
        ModuleNotFoundError: it needs an extra that is not installed.
    """
    rows_of_a_process(stage, count())
    try:
        if stage.use_liger_kernel:
            refuse_without_liger()
        if stage.quantize_llm is not None:
            refuse_without_bitsandbytes(stage.quantize_llm)
        if stage.compile:
            refuse_without_compiler()
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from error
    if stage.epochs is not None or any(source.max_epochs for source in stage.data.sources):
        with_steps_counted(stage, first_on_each_node(lambda: Supply(stage.data)))


def rows_of_a_process(stage: Stage, processes: int) -> int:
    """Conversations that one process takes for one update.

    Raises:
        ValueError: they are not as many in every process, or not half text where the data is to be.
    """
    whole = f"stage {stage.name}: conversations_per_update ({stage.conversations_per_update})"
    micro = stage.conversations_per_step
    if stage.conversations_per_update % ((micro or 1) * processes):
        per_step = f"conversations_per_step ({micro}) times " if micro else ""
        raise ValueError(f"{whole} is no multiple of {per_step}{processes} processes")
    share = stage.conversations_per_update // processes
    if stage.data.half_text_half_multimodal and share % 2:
        # Every process takes rows in turn from both halves, all beginning with the same one.
        raise ValueError(
            f"{whole} gives each of {processes} processes {share}, an odd number, of which "
            "data.half_text_half_multimodal cannot make halves; make it a multiple of twice the processes"
        )
    return share


def with_steps_counted(stage: Stage, supply: Supply) -> Stage:
    """`stage` with `steps` in place of `epochs`, for data that is enough for them.

    Raises:
        ValueError: by `max_epochs` the sources give fewer rows; the warm-up is as long as the steps.
    """
    counted, size = stage.with_steps(supply.rows), stage.conversations_per_update
    # Where the sources give just these epochs, the last update may lack rows, and is left out.
    updates = int(stage.epochs * supply.rows / size) if stage.epochs is not None else counted.steps or 0
    try:
        supply.require(updates * size)
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from error
    return counted
