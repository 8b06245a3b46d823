"""Trainings beside the student and its baseline that tell what a gain is made of."""
