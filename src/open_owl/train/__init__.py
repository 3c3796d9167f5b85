"""Two training stages: a recipe says which parts learn from what; transformers' Trainer does the steps."""
