"""A user's package: one file for each kind of thing that ragjax can be extended by."""
