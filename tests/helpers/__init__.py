"""Toy networks, toy files and runs that several tests share."""
