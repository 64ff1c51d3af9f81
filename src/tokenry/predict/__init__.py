"""Predicting the next tokens: of text (`tokenry.predict.lm`)."""
