"""Numbers -> plotly figures, one file for each kind of question. No figure reads a file or knows a page."""
