"""Language models with another idea of a token: words, bytes, random vectors, states that foresee."""
