r"""Reading a mathematical answer and telling whether it is the gold answer, without sympy.

extract     a completion -> the text of its answer
normalise   the same words, whatever the spacing
scan        text -> tokens
parse       tokens of an expression -> a term (ahead, building, vocabulary, digits)
reading     tokens of a whole answer -> a term: lists, relations (sides: units and words around values)
terms       what an answer can be
rational, evaluation, value, reals, dots
            what a term is worth
equal       two terms -> the same or not (names, equations, rounding, units)
answers     two texts -> the same or not, and which step says so
"""
