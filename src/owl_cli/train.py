"""`owl train`: a recipe -> a trained checkpoint, stage by stage."""

from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe (YAML file), or a preset's name.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, e.g. stages.0.steps=10.")
    ] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Show the whole recipe, every value; run nothing.")
    ] = False,
) -> None:
    """Train a model through the stages of a recipe.

    Everything wrong with the recipe is told before anything loads. Interrupted (Ctrl-C once, a killed
    machine), the same command goes on where the run stopped.

    \b
    Examples:
      owl train my-recipe.yaml
      owl train my-recipe.yaml stages.0.data.workers=4 output_dir=runs/again --print
      owl train paper-stage1-body model=my-owl output_dir=runs/s1 'stages.0.data.sources=[captions.jsonl]'
    """
    from open_owl.train.loading import recipe_as_written

    if print_only:
        text, problem = recipe_as_written(recipe, overrides or ())
        typer.echo(text)
        if problem:
            raise problem
        return

    from open_owl.train.run import train as run

    typer.echo(f"trained: {run(recipe, overrides or ())}")
