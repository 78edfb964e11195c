"""The recipe of the default bundle ``affect``: one flat script a stage."""
