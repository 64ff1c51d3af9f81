"""What comes next: tokens of text (`tokenry.predict.lm`), and who should answer (`tokenry.predict.octopus`)."""
