"""Where a model runs: one file a target, the agent that measures, the channels to devices."""
