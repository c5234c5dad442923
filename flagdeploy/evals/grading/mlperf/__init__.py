"""The accuracy rules of MLPerf Inference's reference, language/deepseek-r1 and gpt-oss-120b.

::

    text.py        what is done to every reply first
    choice.py      GPQA and MMLU-Pro
    integer.py     AIME
    boxed.py       MATH-500: the box; prm800k.py and hendrycks.py: is it the gold answer
    code.py        LiveCodeBench: the code block; code_tests.py: is the output the expected one
    harmony.py     what gpt-oss reads in another way
    references.py  which rule a data set gets, and the scores of a whole run

The whole output is scanned, thoughts included, as the reference does.
"""
