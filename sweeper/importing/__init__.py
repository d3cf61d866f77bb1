"""Studies made of runs that were made elsewhere: logs, tables, other Optuna studies."""
