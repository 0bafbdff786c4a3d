"""A file for each tab. `page` makes what it shows of a board and the chosen runs; `register` tells the application what asks again."""
