"""The study `cross_family`: may teacher and student be of different families?"""
