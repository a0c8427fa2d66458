"""Behaviour that operators and sensors share."""
