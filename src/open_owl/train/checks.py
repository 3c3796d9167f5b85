"""What is asked of every stage before the first of them trains, so that no error waits for days."""

from open_owl.train.recipe import Stage


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
