"""Shared behaviour of operators and sensors, in small parts around a TaskRun."""
