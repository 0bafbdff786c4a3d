"""`rlkit dash`: a local, live page over run folders, and the same as one file (docs/dashboard.md).

    find      paths -> run folders and evaluations
    records   metrics.jsonl, read on while it grows        tables   parquet files, whole, half-written or damaged
    run       one run folder: its state and its numbers    board    all of them together, and who diagnoses
    figures/  numbers -> plotly figures                    tabs/    numbers and figures -> what a tab shows
    app       the tabs as a Dash application               serve    who may look at it
    export    the tabs as one self-contained file

It reads and never writes. Everything that a model, a data row or a file name says is text here, never markup: components
escape by themselves, and figures get `text.label`.
"""
