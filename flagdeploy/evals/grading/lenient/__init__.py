"""What a fair reader accepts, in English and Chinese.

Only the text after the thoughts is read. ``letters.py`` for multiple choice, ``numbers.py`` for
word problems and AIME, ``mathematics.py`` for anything that has to be understood (math-verify),
``benchmarks.py`` says which benchmark gets which.
"""
