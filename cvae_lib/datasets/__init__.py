"""The built-in data, drawn or simulated: digits, faces and series, each with the truth about it."""
