"""A model in the evaluation kits of others; each file but `asking` imports the kit it is named after."""
