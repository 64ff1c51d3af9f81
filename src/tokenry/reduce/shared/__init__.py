"""What several reducers share: diversity, matching, outliers."""
