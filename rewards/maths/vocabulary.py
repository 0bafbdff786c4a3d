"""The words and signs that `parse` knows."""

FUNCTIONS = {
    **{name: name for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth")},
    **{name: name for name in ("arcsin", "arccos", "arctan", "exp", "ln", "log", "abs", "sqrt", "floor", "ceil")},
    **{"asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "lg", "lb": "lb", "ceiling": "ceil", "cosec": "csc"},
    **{"gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min", "binomial": "binom", "factorial": "!", "root": "root"},
    **{"arccot": "arccot", "arcsec": "arcsec", "arccsc": "arccsc", "sgn": "sgn", "sign": "sgn", "cbrt": "cbrt"},
    **{"tg": "tan", "ctg": "cot", "arctg": "arctan", "cis": "cis", "arsinh": "arcsinh", "arcsinh": "arcsinh"},
    **{"det": "det"},
}  # fmt: skip
PLAIN_FUNCTIONS = set(FUNCTIONS) - {"det", "abs", "root", "lb"}
CONSTANTS = {
    "\\infty": "oo",
    "inf": "oo",
    "infty": "oo",
    "infinity": "oo",
    "oo": "oo",
    "pi": "pi",
    "\\pi": "pi",
}
GREEK = set(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega ell "
    "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega hbar aleph Re Im mho odot oplus Upsilon nabla partial".split()
)
ACCENTS = set(
    "overline vec hat bar tilde dot ddot overrightarrow widehat widetilde angle triangle measuredangle overarc arc "
    "overset stackrel".split()
)
FENCES = {"\\lvert": ("\\rvert", "abs"), "\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil")}
MATRICES = {"matrix", "pmatrix", "bmatrix", "Bmatrix", "array", "smallmatrix"}
LISTED = {"gcd", "lcm", "max", "min", "det"}
CALLED = {"f", "g", "h"}
MULTIPLY = {"*", "\\cdot", "\\times"}
DIVIDE = {"/", "\\div"}
POSTFIX = {"^", "!", "\\%", "%", "\\circ", "'", "''", "_"}
SEPARATORS = {
    ",",
    ";",
    ":",
    "\\mid",
    "=",
    "<",
    ">",
    "\\le",
    "\\ge",
    "\\ne",
    "\\approx",
    "\\sim",
    "\\in",
    "\\notin",
    "\\equiv",
}
SEPARATORS |= {"\\cup", "\\cap", "\\setminus", "\\cr", "\\quad", "\\$", "\\wedge", "\\vee"}
"""What makes the contents of a bracket more than an expression."""
