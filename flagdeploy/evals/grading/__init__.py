"""Graders: from a reply and a gold answer to a Grade.

::

    plain.py     one rule per shape of a benchmark folder (gsm8k, mmlu, aime)
    mlperf/      the MLPerf Inference reference, rule by rule, quirks included
    lenient/     what a fair reader accepts: math-verify, a tolerant letter and number reader
    grader.py    mlperf and lenient for one reply, and whether they differ
    pool.py      processes for what has no bound in time; worker.py is such a process
    code_job.py  a container for generated code; run_tests.py is what runs in it

Which shapes run where: letters, numbers, integers and the finding of a box or a code block are
regular expressions whose repetitions never overlap (possessive where they could), so their time
is linear in the reply and they run in process. Mathematics (sympy) has no such bound and runs in
the processes of pool.py. Generated code is never run here: code_job.py describes a container for
it, and workflows/grade_code.py runs that.
"""
