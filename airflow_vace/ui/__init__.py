"""The Videos tab: an Airflow plugin, its routes in the API server, and one script."""

# Airflow's names for the provider's tasks (`operator_name`), so other tasks get no tab.
OPERATOR_NAMES = (
    *("VacePredictionOperator", "VacePredictionSensor", "@task.vace"),
    *("VaceBatchOperator", "@task.vace_batch"),
)
