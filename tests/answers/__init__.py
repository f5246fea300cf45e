"""Answers to the exercises as learners write them: right ones of every kind, and known wrong ones with their mistake.

Each chapter's file holds two tables. ``RIGHT[number]`` is a list of (how it is written, answers). ``WRONG[number]`` is
a list of (mistake, how it came about, answers), where the mistake is the name under which the check must recognise it.
"""

from answers import chapter_01, chapter_02, chapter_03, chapter_04, chapter_05, chapter_06

CHAPTERS = (chapter_01, chapter_02, chapter_03, chapter_04, chapter_05, chapter_06)
RIGHT = {number: rows for chapter in CHAPTERS for number, rows in chapter.RIGHT.items()}
WRONG = {number: rows for chapter in CHAPTERS for number, rows in chapter.WRONG.items()}
