"""The two ways in which a batch comes about: questions and episodes."""
