"""The results of `rlkit analyze` as tables, from their JSON alone."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .tables import lines_of, say, table

if TYPE_CHECKING:
    from rich.console import Console

Study = Mapping[str, Any]


def mc_credit(result: Study) -> str:
    return lines_of(lambda console: _mc_credit(console, result))


def skip(result: Study) -> str:
    return lines_of(lambda console: _skip(console, result))


def implicit(result: Study) -> str:
    return lines_of(lambda console: _implicit(console, result))


def interval(found: Mapping[str, Any] | None, digits: int = 2, signed: bool = False) -> str:
    """`0.71 [0.62 .. 0.79]`.

    >>> interval({"mean": 0.71, "low": 0.62, "high": 0.79}), interval({"mean": 1.0, "low": None, "high": None}), interval(None)
    ('0.71 [0.62 .. 0.79]', '1.00', '-')
    """
    if found is None:
        return "-"
    sign = "+" if signed else ""
    mean = f"{found['mean']:{sign}.{digits}f}"
    if found["low"] is None:
        return mean
    return f"{mean} [{found['low']:{sign}.{digits}f} .. {found['high']:{sign}.{digits}f}]"


def _name(estimator: str) -> str:
    return "GRPO" if estimator == "broadcast" else f"K = {estimator}"


# -- mc-credit ---------------------------------------------------------------------------------------------------------


def _mc_credit(console: "Console", result: Study) -> None:
    measured = result["measured"]
    say(
        console,
        f"{result['model']} on {result['data']}: {result['draws']:,} continuations; {measured['mixed_units']} of {measured['units']} groups of "
        f"prefixes come from answers that differ in reward; of their true signs {measured['doubtful']:.0%} lie within the truth's own error",
    )
    names = list(measured["mixed"])
    _title(console, "credit against the truth (mixed groups), 95 % intervals over prompts")
    table(
        console,
        ("", "sign right", "all signs of a group", "error of A", "error of the value"),
        [
            [_name(name), *(interval(row[n]) for n in ("sign", "all_signs", "error", "value_error"))]
            for name, row in measured["mixed"].items()
        ],
    )
    if measured["deep"]:
        _title(
            console, f"the groups with {result['deep']:,} continuations of each prefix, all kinds of groups"
        )
        table(
            console,
            ("", "sign right", "all signs of a group", "error of A", "error of the value"),
            [
                [_name(name), *(interval(row[n]) for n in ("sign", "all_signs", "error", "value_error"))]
                for name, row in measured["deep"].items()
            ],
        )
    for number, words in (("sign", "sign right"), ("error", "error of A")):
        _title(console, f"{words}, by the share of the answer that the prefix holds (mixed groups)")
        table(
            console,
            ("share", *map(_name, names)),
            [[f"{row['position']:.3f}", *_cells(row, names, number)] for row in measured["by_position"]],
        )
    _title(console, "sign right, by how many of a group's answers were right")
    table(
        console,
        ("right", "groups", "spread of values", *map(_name, names)),
        [
            [str(row["right"]), str(row["units"]), f"{row['spread']:.3f}", *_cells(row, names, "sign")]
            for row in measured["by_right"]
        ],
    )
    if result["steps"] is not None:
        _steps(console, result["steps"])
    _simulation(console, result["simulation"])


def _cells(row: Mapping[str, Any], names: Sequence[str], number: str) -> list[str]:
    known = row["estimators"]
    return [interval(known[name][number]) if name in known else "-" for name in names]


def _steps(console: "Console", steps: Mapping[str, Any]) -> None:
    _title(
        console,
        f"steps whose truth is known: {steps['right_steps']} right ones, which add {interval(steps['value_won'], signed=True)} to the "
        f"value, and {steps['slips']} slips, which take {interval(steps['value_lost'])}",
    )
    table(
        console,
        ("", "slips pushed down", "right steps pushed down", "slip below right step"),
        [
            [_name(name), f"{row['slips_down']:.2f}", f"{row['right_down']:.2f}", f"{row['told_apart']:.3f}"]
            for name, row in steps["estimators"].items()
        ],
    )


def _simulation(console: "Console", rows: Sequence[Mapping[str, Any]]) -> None:
    _title(
        console,
        "simulated (the paper's A.2): all 8 signs / each sign right, success rates N(0.5, spread) from N continuations",
    )
    names = list(rows[0]["estimators"])
    table(
        console,
        ("spread", *(f"N = {name}" for name in names)),
        [
            [
                f"{row['spread']:g}",
                *(
                    f"{row['estimators'][n]['all_signs']:.2f} / {row['estimators'][n]['sign']:.2f}"
                    for n in names
                ),
            ]
            for row in rows
        ],
    )


# -- skip --------------------------------------------------------------------------------------------------------------


def _skip(console: "Console", result: Study) -> None:
    words = {
        "distinct": f"distinct final answers among {result['group']}",
        "zero": "groups of equal rewards, which train nothing",
        "length": "tokens of a continuation",
    }
    for number, title in words.items():
        _title(console, f"{result['model']} on {result['data']}: {title}")
        table(
            console,
            ("share", "unconditional", "continual", "skip", "continual - unc.", "skip - unc."),
            [
                [
                    f"{row['share']:.3f}",
                    *(interval(row[kind][number]) for kind in ("unconditional", "continual", "skip")),
                    *(interval(row[kind]["against"][number], signed=True) for kind in ("continual", "skip")),
                ]
                for row in result["splits"]
            ],
        )


# -- implicit ----------------------------------------------------------------------------------------------------------


def _implicit(console: "Console", result: Study) -> None:
    models = result["models"]
    solved = ", ".join(
        f"{model['name']} has a right answer to {model['problems']} of {result['prompts']}"
        for model in models
    )
    say(
        console,
        f"{result['data']}: {solved}. Success of {result['evaluator']}, {result['continuations']} continuations of each",
    )
    several = len(models) > 1
    header = ["share", *(f"{model['name']}: success" for model in models)]
    if several:
        header += [f"{model['name']}: against the others" for model in models]
    rows = []
    for x, position in enumerate(models[0]["positions"]):
        cells = [interval(model["positions"][x]["success"]) for model in models]
        if several:
            cells += [interval(model["positions"][x]["advantage"], signed=True) for model in models]
        rows.append([f"{position['share']:.3f}", *cells])
    table(console, header, rows)
    if several:
        say(console, f"against the others: over the {models[0]['common']} problems that all have solved")


def _title(console: "Console", words: str) -> None:
    console.print()
    say(console, words)
