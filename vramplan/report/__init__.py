"""Estimates, verdicts and cards as text: tables for people, JSON, CSV and Markdown for everything else."""
