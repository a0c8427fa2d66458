"""Servers, stores and runs that tests share."""
