"""What runs inside the sandbox: plain Python on the standard library's cheapest modules, importing nothing of rlkit.

starter.py sets the limits, then becomes one of three: the program itself (stdin and stdout), the `subject`, which holds
the program and answers calls, or the `tester`, which runs the row's tests in a sandbox of its own and calls the subject.
wire.py is all that passes between them.
"""
