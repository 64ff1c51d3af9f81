"""What several reducers share: diversity, matching, outliers, lots, and how tiles compare."""
