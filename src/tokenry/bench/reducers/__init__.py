"""Reducers of visual tokens compared: arms, runs, rows, tables, pages."""
