"""Tables of scores as text, Markdown, CSV and LaTeX."""
