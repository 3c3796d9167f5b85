"""What is asked of every stage before the first of them trains, so that no error waits for days."""

from torch import nn

from open_owl.data.conversation import Image, Refused
from open_owl.data.stream import Supply
from open_owl.quantized_linear import refuse_without_bitsandbytes
from open_owl.train.evaluation import usable_rows
from open_owl.train.kernels import refuse_without_liger
from open_owl.train.layers import refuse_without_compiler
from open_owl.train.parallel import count, first_on_each_node
from open_owl.train.recipe import Evaluation, Stage
from open_owl.train.stages import POSITIONS, part_module


def refuse_what_cannot_run(stage: Stage) -> None:
    """Asks for the processes, what this machine has, and the data; every process has to call it.

    Sources are indexed for it, and Parquet is converted, into the cache where the stage finds them.

    Raises:
        ValueError: `stage` cannot run here, or not on these data, or what it is evaluated on cannot be read.
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
        supply = first_on_each_node(lambda: _readable(stage))
        supply.require_readers(stage.data.readers(count()))
    except ValueError as error:
        raise ValueError(f"stage {stage.name}: {error}") from error
    with_steps_counted(stage, supply)


def _readable(stage: Stage) -> Supply:
    """What the stage learns from; of each source that it is evaluated on a row is read, too."""
    if stage.evaluation is not None:
        _read_a_little(stage.evaluation)
    return Supply(stage.data)


def _read_a_little(evaluation: Evaluation) -> None:
    """Raises ValueError where a source has no row that can be opened, or a sample's picture cannot be."""
    for source in evaluation.sources:
        # Without a processor: how long a row is, is asked for when the stage begins.
        next(usable_rows(source, lambda conversation: conversation.open_media(num_frames=1)))
    for sample in evaluation.samples:
        try:
            Image(sample.image).open(sample.image)
        except Refused as refused:
            raise ValueError(f"evaluation.samples: {refused}") from refused


def refuse_rows_beyond_positions(stage: Stage, model: nn.Module) -> None:
    """Raises ValueError where rows may be longer than a table of positions that the LLM has (GPT-2, OPT).

    Computed positions (rotary, ALiBi) have no end at which a step would fail.
    """
    llm = part_module(model, "language_model")
    tables = [
        module.num_embeddings
        for name, module in llm.named_modules()
        if isinstance(module, nn.Embedding) and POSITIONS.search(name.rpartition(".")[2])
    ]
    if not tables:
        return
    # OPT's table has two rows that are no position.
    positions = getattr(llm.config, "max_position_embeddings", None) or min(tables)
    if stage.max_tokens > positions:
        raise ValueError(
            f"stage {stage.name}: max_tokens ({stage.max_tokens}) is above the {positions} positions that "
            f"the language model has in a table; lower max_tokens to {positions}"
        )


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
