"""The screens of videos: an Airflow plugin, its routes in the API server, and scripts."""

# Airflow's names for the provider's tasks (`operator_name`), so other tasks get no tab.
OPERATOR_NAMES = (
    *("VacePredictionOperator", "VacePredictionSensor", "@task.vace"),
    *("VaceBatchOperator", "@task.vace_batch"),
)
# Tasks where a person decides; their tab shows the videos of the tasks before them.
REVIEW_NAMES = ("ApprovalOperator", "HITLOperator", "HITLBranchOperator", "HITLEntryOperator")
