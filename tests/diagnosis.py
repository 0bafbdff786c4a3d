"""The page docs/diagnosis.md, written from the checks themselves.

python -m tests.diagnosis > docs/diagnosis.md
"""

from rlkit.doctor import CHECKS, SEVERITIES

HEAD = """\
# Diagnosis in words

A run writes dozens of numbers per step. rlkit reads them along and says what is wrong, why it is likely so, and what to try:

    rlkit doctor runs/NAME           a run that is finished, crashed or still going, worst first
    rlkit doctor runs/NAME --json    the same for programs

`rlkit train` says the same while it runs: each finding once, and again when it has been gone for ten steps and returns, or has got
twice as bad or more severe. A hint is said once. A finding that is over counts one step milder; what a graver one explains
(a constant reward explains a gradient of 0) is left out.

- **serious**: the run does not learn, or learns something wrong. `rlkit doctor` ends with exit code 1.
- **warning**: it learns badly, or less than it costs. Exit code 0.
- **hint**: good to know. Exit code 0.

The command also reads the rollouts of the last steps that a finding was seen in, where the run kept them: the verifier's most
frequent reason for a wrong answer, an error or a skip; whether cut answers hold a special token that should have ended them; whether
they end in a loop. It needs nothing but the folder, and a folder that is no run is told so with exit code 2.

Each threshold is a constant with its reason in `rlkit/doctor/answers.py` and `rlkit/doctor/learning.py`. This page is written from the
checks by `python -m tests.diagnosis`.
"""


def documentation() -> str:
    lines = [HEAD]
    for severity in SEVERITIES:
        lines += [
            f"## {severity.capitalize()}, at its worst",
            "",
            "| finding | it speaks when | likely cause | what to try |",
            "| --- | --- | --- | --- |",
        ]
        for check in CHECKS:
            if check.severity == severity:
                cells = (f"`{check.name}`", check.when, check.cause, check.remedy)
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


if __name__ == "__main__":
    print(documentation(), end="")
