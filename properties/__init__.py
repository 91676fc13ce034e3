"""Settings of llmbole as yaml files: run-wide defaults, data sets, protocols, models, experiments."""
