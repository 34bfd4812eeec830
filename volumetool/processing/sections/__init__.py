"""Sections that are not as their neighbours: found by measuring all of them, left out, or filled."""
